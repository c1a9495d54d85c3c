// What the AVX2 kernels share. Only for files that are compiled with -mavx2.
#pragma once

#include <immintrin.h>

#include <type_traits>
#include <utility>

#include "kernels.hpp"

#define OAQ_LAMBDA __attribute__((always_inline))
#define OAQ_INLINE __attribute__((always_inline)) inline

namespace oaq {

bool cpu_has_avx2();  // dispatch.cpp, which is compiled for any CPU

namespace avx2 {

// f(0), ..., f(N - 1) with compile-time indices, so that arrays of vectors become registers.
template <typename F, int... I>
OAQ_INLINE void each(const F& f, std::integer_sequence<int, I...>) {
    (f(std::integral_constant<int, I>()), ...);
}
template <int N, typename F>
OAQ_INLINE void each(const F& f) {
    each(f, std::make_integer_sequence<int, N>());
}

// N codes, as an operand of assembly.
template <int N>
struct Codes {
    std::uint8_t codes[N];
};
template <int N>
inline const Codes<N>& at(const std::uint8_t* in) {
    return *reinterpret_cast<const Codes<N>*>(in);
}

OAQ_INLINE __m256i load(const void* p) { return _mm256_loadu_si256(static_cast<const __m256i*>(p)); }

// Sign extension from the lowest 32 - shift bits.
OAQ_INLINE __m256i wrap(__m256i acc, int shift) {
    const __m128i count = _mm_cvtsi32_si128(shift);
    return _mm256_sra_epi32(_mm256_sll_epi32(acc, count), count);
}

OAQ_INLINE void store(std::uint8_t* out, __m128i codes, int channels) {
    if (channels >= 16) {
        _mm_storeu_si128(reinterpret_cast<__m128i*>(out), codes);
        return;
    }
    if (channels & 8) {
        _mm_storel_epi64(reinterpret_cast<__m128i*>(out), codes);
        codes = _mm_srli_si128(codes, 8);
        out += 8;
    }
    if ((channels & 7) != 0) {
        std::uint64_t left = static_cast<std::uint64_t>(_mm_cvtsi128_si64(codes));
        for (int c = 0; c < (channels & 7); ++c, left >>= 8) out[c] = static_cast<std::uint8_t>(left);
    }
}

void depthwise(const DepthwiseBlock& block);  // avx2_depthwise.cpp
void add(const std::uint8_t* a, const std::uint8_t* b, std::uint8_t* out, std::int64_t count,
         const AddConstants& constants);  // avx2_elementwise.cpp
void multiply(const std::uint8_t* a, const std::uint8_t* b, std::uint8_t* out, std::int64_t pixels, std::int64_t count,
              const MultiplyConstants& constants);
void lookup(const std::uint8_t* in, std::uint8_t* out, std::int64_t count, const std::uint8_t* table);

}  // namespace avx2
}  // namespace oaq
