// Operators without weights for x86-64 with AVX2, where what the compiler makes of elementwise.cpp takes longer.
#include <algorithm>

#include "avx2.hpp"
#include "elementwise.hpp"

namespace oaq::avx2 {
namespace {

// code - zero of 8 codes.
OAQ_INLINE __m256 centred(const std::uint8_t* codes, __m256i zero) {
    const __m256i wide = _mm256_cvtepu8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(codes)));
    return _mm256_cvtepi32_ps(_mm256_sub_epi32(wide, zero));
}

// clamp(rint(value) + zero_point, 0, q_max) of 32 values.
class ToCodes {
public:
    ToCodes(int zero_point, int q_max)
        : zero_point_(_mm256_set1_epi16(static_cast<short>(zero_point))),
          highest_code_(_mm256_set1_epi8(static_cast<char>(q_max))),
          highest_(_mm256_set1_ps(static_cast<float>(q_max - zero_point))) {}

    OAQ_INLINE __m256i operator()(const __m256 (&values)[4]) const {
        __m256i whole[4], codes[2];
        // Too large a value would be converted to the smallest integer, as one that is too small is.
        each<4>([&](auto v) OAQ_LAMBDA { whole[v] = _mm256_cvtps_epi32(_mm256_min_ps(values[v], highest_)); });
        each<2>([&](auto h) OAQ_LAMBDA {
            codes[h] = _mm256_adds_epi16(_mm256_packs_epi32(whole[2 * h], whole[2 * h + 1]), zero_point_);
        });
        const __m256i clamped = _mm256_min_epu8(_mm256_packus_epi16(codes[0], codes[1]), highest_code_);
        // Packing works within 128-bit lanes.
        return _mm256_permutevar8x32_epi32(clamped, _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7));
    }

private:
    __m256i zero_point_, highest_code_;
    __m256 highest_;
};

// out = codes of the first `count` of 32 values, a multiple of 8.
OAQ_INLINE void store_codes(std::uint8_t* out, std::int64_t count, const ToCodes& codes, const __m256 (&values)[4]) {
    const __m256i found = codes(values);
    if (count == 32) {
        _mm256_storeu_si256(reinterpret_cast<__m256i*>(out), found);
        return;
    }
    store(out, _mm256_castsi256_si128(found), static_cast<int>(count));
    if (count == 24) store(out + 16, _mm256_extracti128_si256(found, 1), 8);
}

// Calls block(first, size) for 32 codes at a time and the last 8, 16 or 24; returns how many: fewer than 8 are left over.
template <typename Block>
OAQ_INLINE std::int64_t each_block(std::int64_t count, const Block& block) {
    std::int64_t i = 0;
    for (; i + 8 <= count; i += 32) block(i, std::min<std::int64_t>(32, (count - i) / 8 * 8));
    return std::min(i, count / 8 * 8);
}

// Rows of 16 codes of a table, each as what differs from the row before: a code of row r is all differences of rows 0 to r.
// Half a table at a time, as a shuffle gives 0 for bytes above 127. Rows without a difference are left out.
struct Rows {
    int count = 0;
    __m128i difference[8];
    __m256i first[8];  // code of the row, in all bytes

    explicit Rows(const std::uint8_t* table) {
        __m128i before = _mm_setzero_si128();
        for (int row = 0; row < 8; ++row) {
            const __m128i codes = _mm_loadu_si128(reinterpret_cast<const __m128i*>(table + 16 * row));
            difference[count] = _mm_xor_si128(codes, before);
            first[count] = _mm256_set1_epi8(static_cast<char>(16 * row));
            count += !_mm_testz_si128(difference[count], difference[count]);
            before = codes;
        }
    }

    // codes ^= those of the half table; places below 128, others change nothing.
    template <int N>
    OAQ_INLINE void look_up(const __m256i (&places)[N], __m256i (&codes)[N]) const {
        for (int row = 0; row < count; ++row) {
            const __m256i part = _mm256_broadcastsi128_si256(difference[row]), begin = first[row];
            each<N>([&](auto v) OAQ_LAMBDA {  // negative before the row begins
                codes[v] = _mm256_xor_si256(codes[v], _mm256_shuffle_epi8(part, _mm256_subs_epi8(places[v], begin)));
            });
        }
    }
};

template <int N>
OAQ_INLINE void look_up(const Rows& low, const Rows& high, const std::uint8_t* in, std::uint8_t* out) {
    __m256i places[N], codes[N];
    each<N>([&](auto v) OAQ_LAMBDA {
        places[v] = load(in + 32 * v);
        codes[v] = _mm256_setzero_si256();
    });
    low.look_up<N>(places, codes);
    each<N>([&](auto v) OAQ_LAMBDA { places[v] = _mm256_xor_si256(places[v], _mm256_set1_epi8(-128)); });
    high.look_up<N>(places, codes);
    each<N>([&](auto v) OAQ_LAMBDA { _mm256_storeu_si256(reinterpret_cast<__m256i*>(out + 32 * v), codes[v]); });
}

}  // namespace

void add(const std::uint8_t* a, const std::uint8_t* b, std::uint8_t* out, std::int64_t count, const AddConstants& k) {
    const __m256i zero_a = _mm256_set1_epi32(k.zero_a), zero_b = _mm256_set1_epi32(k.zero_b);
    const __m256 scale_a = _mm256_set1_ps(k.scale_a), scale_b = _mm256_set1_ps(k.scale_b), scale = _mm256_set1_ps(k.scale);
    const ToCodes codes(k.zero_point, k.q_max);
    const std::int64_t done = each_block(count, [&](std::int64_t first, std::int64_t size) OAQ_LAMBDA {
        __m256 values[4];
        each<4>([&](auto v) OAQ_LAMBDA {
            const std::int64_t i = first + (8 * v < size ? 8 * v : 0);
            const __m256 real_a = _mm256_mul_ps(centred(a + i, zero_a), scale_a);
            const __m256 real_b = _mm256_mul_ps(centred(b + i, zero_b), scale_b);
            values[v] = _mm256_div_ps(_mm256_add_ps(real_a, real_b), scale);
        });
        store_codes(out + first, size, codes, values);
    });
    elementwise::add(a + done, b + done, out + done, count - done, k);
}

// The product is below 2^24 and so exact in float32.
void multiply(const std::uint8_t* a, const std::uint8_t* b, std::uint8_t* out, std::int64_t pixels, std::int64_t count,
              const MultiplyConstants& k) {
    const __m256i zero_a = _mm256_set1_epi32(k.zero_a), zero_b = _mm256_set1_epi32(k.zero_b);
    const __m256 multiplier = _mm256_set1_ps(k.multiplier);
    const ToCodes codes(k.zero_point, k.q_max);
    const std::int64_t done = each_block(count, [&](std::int64_t first, std::int64_t size) OAQ_LAMBDA {
        __m256 factors[4];
        const auto at = [&](int v) OAQ_LAMBDA { return first + (8 * v < size ? 8 * v : 0); };
        each<4>([&](auto v) OAQ_LAMBDA { factors[v] = centred(b + at(v), zero_b); });
        for (std::int64_t start = 0; start < pixels * count; start += count) {
            __m256 values[4];
            each<4>([&](auto v) OAQ_LAMBDA {
                values[v] = _mm256_mul_ps(_mm256_mul_ps(centred(a + start + at(v), zero_a), factors[v]), multiplier);
            });
            store_codes(out + start + first, size, codes, values);
        }
    });
    for (std::int64_t start = done; done < count && start < pixels * count; start += count)
        elementwise::multiply(a + start, b + done, out + start, 1, count - done, k);
}

void lookup(const std::uint8_t* in, std::uint8_t* out, std::int64_t count, const std::uint8_t* table) {
    constexpr std::int64_t kMany = 4 * 32;
    const Rows low(table), high(table + 128);
    std::int64_t i = 0;
    for (; i + kMany <= count; i += kMany) look_up<4>(low, high, in + i, out + i);
    for (; i + 32 <= count; i += 32) look_up<1>(low, high, in + i, out + i);
    elementwise::lookup(in + i, out + i, count - i, table);
}

}  // namespace oaq::avx2
