// Sums of codes for x86-64 with AVX2: what the compiler makes of elementwise::add takes 1.5 times as long.
#include "avx2.hpp"
#include "elementwise.hpp"

namespace oaq::avx2 {
namespace {

// (code - zero) * scale of 8 codes.
OAQ_INLINE __m256 dequantize(const std::uint8_t* codes, __m256i zero, __m256 scale) {
    const __m256i wide = _mm256_cvtepu8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(codes)));
    return _mm256_mul_ps(_mm256_cvtepi32_ps(_mm256_sub_epi32(wide, zero)), scale);
}

}  // namespace

void add(const std::uint8_t* a, const std::uint8_t* b, std::uint8_t* out, std::int64_t count, const AddConstants& k) {
    const __m256i zero_a = _mm256_set1_epi32(k.zero_a), zero_b = _mm256_set1_epi32(k.zero_b);
    const __m256i zero_point = _mm256_set1_epi16(static_cast<short>(k.zero_point));
    const __m256i highest_code = _mm256_set1_epi8(static_cast<char>(k.q_max));
    const __m256 scale_a = _mm256_set1_ps(k.scale_a), scale_b = _mm256_set1_ps(k.scale_b), scale = _mm256_set1_ps(k.scale);
    const __m256 highest = _mm256_set1_ps(static_cast<float>(k.q_max - k.zero_point));
    const __m256i order = _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7);  // packing works within 128-bit lanes
    std::int64_t i = 0;
    for (; i + 32 <= count; i += 32) {
        __m256i values[4], codes[2];
        each<4>([&](auto v) OAQ_LAMBDA {
            const __m256 first = dequantize(a + i + 8 * v, zero_a, scale_a), second = dequantize(b + i + 8 * v, zero_b, scale_b);
            const __m256 value = _mm256_div_ps(_mm256_add_ps(first, second), scale);
            // Too large a value would be converted to the smallest integer, as one that is too small is.
            values[v] = _mm256_cvtps_epi32(_mm256_min_ps(value, highest));
        });
        each<2>([&](auto h) OAQ_LAMBDA {
            codes[h] = _mm256_adds_epi16(_mm256_packs_epi32(values[2 * h], values[2 * h + 1]), zero_point);
        });
        const __m256i clamped = _mm256_min_epu8(_mm256_packus_epi16(codes[0], codes[1]), highest_code);
        _mm256_storeu_si256(reinterpret_cast<__m256i*>(out + i), _mm256_permutevar8x32_epi32(clamped, order));
    }
    elementwise::add(a + i, b + i, out + i, count - i, k);
}

}  // namespace oaq::avx2
