// What the AVX2 kernels share. Only for files that are compiled with -mavx2.
#pragma once

#include <immintrin.h>

#include <cstring>
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
    alignas(16) std::uint8_t buffer[16];
    _mm_store_si128(reinterpret_cast<__m128i*>(buffer), codes);
    std::memcpy(out, buffer, static_cast<std::size_t>(channels));
}

void depthwise(const DepthwiseBlock& block);  // avx2_depthwise.cpp

}  // namespace avx2
}  // namespace oaq
