// Operators without weights for x86-64 with AVX2, where what the compiler makes of elementwise.cpp takes longer.
#include <algorithm>

#include "avx2_epilogue.hpp"
#include "elementwise.hpp"

namespace oaq::avx2 {
namespace {

// 8 codes as int32, and code - zero of them as float32.
OAQ_INLINE __m256i widened(const std::uint8_t* codes) {
    return _mm256_cvtepu8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(codes)));
}
OAQ_INLINE __m256 centred(const std::uint8_t* codes, __m256i zero) {
    return _mm256_cvtepi32_ps(_mm256_sub_epi32(widened(codes), zero));
}

// Writes the codes of the first `size` of 32 values, a multiple of 8; values(v): 8 of them, as int32.
template <typename Values>
OAQ_INLINE void write(std::uint8_t* out, std::int64_t size, const ToCodes& to_codes, const Values& values) {
    __m256i packed[2];
    each<2>([&](auto h) OAQ_LAMBDA { packed[h] = _mm256_packs_epi32(values(2 * h), values(2 * h + 1)); });
    store_codes(out, in_order(to_codes(packed[0], packed[1])), static_cast<int>(size));
}

// Where the 8 codes stand that are number v of a block; beyond its size others, which are not written.
OAQ_INLINE std::int64_t place(std::int64_t first, std::int64_t size, int v) { return first + (8 * v < size ? 8 * v : 0); }

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

// Too large a value would be converted to the smallest integer, as one that is too small is.
OAQ_INLINE __m256i rounded(__m256 values, __m256 highest) { return _mm256_cvtps_epi32(_mm256_min_ps(values, highest)); }

// How many codes were added, from the first one on.
std::int64_t add_float32(const std::uint8_t* a, const std::uint8_t* b, std::uint8_t* out, std::int64_t count,
                         const AddConstants& k) {
    const __m256i zero_a = _mm256_set1_epi32(k.zero_a), zero_b = _mm256_set1_epi32(k.zero_b);
    const auto real = [&](int i) OAQ_LAMBDA { return _mm256_set1_ps(k.multipliers.real[i]); };
    const __m256 scale_a = real(0), scale_b = real(1), scale = real(2);
    const __m256 highest = _mm256_set1_ps(static_cast<float>(k.q_max - k.zero_point));
    const ToCodes to_codes(k.zero_point, k.q_max);
    return each_block(count, [&](std::int64_t first, std::int64_t size) OAQ_LAMBDA {
        write(out + first, size, to_codes, [&](int v) OAQ_LAMBDA {
            const std::int64_t i = place(first, size, v);
            const __m256 real_a = _mm256_mul_ps(centred(a + i, zero_a), scale_a);
            const __m256 real_b = _mm256_mul_ps(centred(b + i, zero_b), scale_b);
            return rounded(_mm256_div_ps(_mm256_add_ps(real_a, real_b), scale), highest);
        });
    });
}

// What the zero points take off a sum of products.
std::int64_t zeros(const AddConstants& k) {
    return std::int64_t{k.zero_a} * k.multipliers.integer[0] + std::int64_t{k.zero_b} * k.multipliers.integer[1];
}

// Whether values always stay below 2^31.
bool stays_narrow(const AddConstants& k) {
    const std::int64_t largest = 255 * (std::int64_t{k.multipliers.integer[0]} + k.multipliers.integer[1]);
    return shifted(largest, k.multipliers.shift[0]) < (std::int64_t{1} << 31) - 256;
}

bool stays_narrow(const MultiplyConstants& k) {
    const std::int64_t largest = std::int64_t{255 * 255} * k.multipliers.integer[0];
    return shifted(largest, k.multipliers.shift[0]) < (std::int64_t{1} << 31) - 256;
}

// As Scale of dyadic, for a sum of two products.
std::int64_t add_dyadic(const std::uint8_t* a, const std::uint8_t* b, std::uint8_t* out, std::int64_t count,
                        const AddConstants& k) {
    const __m256i by_a = _mm256_set1_epi32(k.multipliers.integer[0]), by_b = _mm256_set1_epi32(k.multipliers.integer[1]);
    const int shift = k.multipliers.shift[0];
    constexpr std::int64_t kOffset = std::int64_t{1} << 62;
    const __m256i more = _mm256_set1_epi64x(kOffset + (std::int64_t{1} << (shift - 1)) - zeros(k));
    const __m256i left = _mm256_set1_epi32(static_cast<int>(kOffset >> shift));
    const __m128i places = _mm_cvtsi32_si128(shift);
    const ToCodes to_codes(k.zero_point, k.q_max);
    const auto half = [&](__m256i codes_a, __m256i codes_b) OAQ_LAMBDA {
        const __m256i products = _mm256_add_epi64(_mm256_mul_epi32(codes_a, by_a), _mm256_mul_epi32(codes_b, by_b));
        return _mm256_srl_epi64(_mm256_add_epi64(products, more), places);
    };
    return each_block(count, [&](std::int64_t first, std::int64_t size) OAQ_LAMBDA {
        write(out + first, size, to_codes, [&](int v) OAQ_LAMBDA {
            const std::int64_t i = place(first, size, v);
            const __m256i codes_a = widened(a + i), codes_b = widened(b + i);
            const __m256i odd = half(_mm256_srli_epi64(codes_a, 32), _mm256_srli_epi64(codes_b, 32));
            return _mm256_sub_epi32(joined(half(codes_a, codes_b), odd), left);
        });
    });
}

// Codes of both, side by side as int16, take one instruction for their products.
std::int64_t add_fixed16(const std::uint8_t* a, const std::uint8_t* b, std::uint8_t* out, std::int64_t count,
                         const AddConstants& k) {
    const __m256i by = _mm256_set1_epi32(k.multipliers.integer[1] << 16 | k.multipliers.integer[0]);
    const int shift = k.multipliers.shift[0];
    const __m256i more = _mm256_set1_epi32(static_cast<int>((std::int64_t{1} << (shift - 1)) - zeros(k)));
    const __m128i places = _mm_cvtsi32_si128(shift);
    const ToCodes to_codes(k.zero_point, k.q_max);
    const __m256i none = _mm256_setzero_si256();
    std::int64_t i = 0;
    for (; i + 32 <= count; i += 32) {
        const __m256i codes_a = load(a + i), codes_b = load(b + i);
        const auto values = [&](__m256i codes) OAQ_LAMBDA {
            return _mm256_sra_epi32(_mm256_add_epi32(_mm256_madd_epi16(codes, by), more), places);
        };
        const auto packed = [&](__m256i codes) OAQ_LAMBDA {
            return _mm256_packs_epi32(values(_mm256_unpacklo_epi8(codes, none)), values(_mm256_unpackhi_epi8(codes, none)));
        };
        const __m256i low = packed(_mm256_unpacklo_epi8(codes_a, codes_b));
        store_codes(out + i, to_codes(low, packed(_mm256_unpackhi_epi8(codes_a, codes_b))), 32);
    }
    return i;
}

// The product is below 2^24 and so exact in float32.
std::int64_t multiply_float32(const std::uint8_t* a, const std::uint8_t* b, std::uint8_t* out, std::int64_t pixels,
                              std::int64_t count, const MultiplyConstants& k) {
    const __m256i zero_a = _mm256_set1_epi32(k.zero_a), zero_b = _mm256_set1_epi32(k.zero_b);
    const __m256 multiplier = _mm256_set1_ps(k.multipliers.real[0]);
    const __m256 highest = _mm256_set1_ps(static_cast<float>(k.q_max - k.zero_point));
    const ToCodes to_codes(k.zero_point, k.q_max);
    return each_block(count, [&](std::int64_t first, std::int64_t size) OAQ_LAMBDA {
        __m256 factors[4];
        each<4>([&](auto v) OAQ_LAMBDA { factors[v] = centred(b + place(first, size, v), zero_b); });
        for (std::int64_t start = 0; start < pixels * count; start += count)
            write(out + start + first, size, to_codes, [&](int v) OAQ_LAMBDA {
                const __m256 products = _mm256_mul_ps(centred(a + start + place(first, size, v), zero_a), factors[v]);
                return rounded(_mm256_mul_ps(products, multiplier), highest);
            });
    });
}

std::int64_t multiply_dyadic(const std::uint8_t* a, const std::uint8_t* b, std::uint8_t* out, std::int64_t pixels,
                             std::int64_t count, const MultiplyConstants& k) {
    const __m256i zero_a = _mm256_set1_epi32(k.zero_a), zero_b = _mm256_set1_epi32(k.zero_b);
    const Scale<Requantization::kDyadic> scale(k.multipliers, [](const auto* one) { return _mm256_set1_epi32(*one); });
    const ToCodes to_codes(k.zero_point, k.q_max);
    return each_block(count, [&](std::int64_t first, std::int64_t size) OAQ_LAMBDA {
        __m256i factors[4];
        each<4>([&](auto v) OAQ_LAMBDA { factors[v] = _mm256_sub_epi32(widened(b + place(first, size, v)), zero_b); });
        for (std::int64_t start = 0; start < pixels * count; start += count)
            write(out + start + first, size, to_codes, [&](int v) OAQ_LAMBDA {
                const __m256i codes = _mm256_sub_epi32(widened(a + start + place(first, size, v)), zero_a);
                return scale(_mm256_mullo_epi32(codes, factors[v]));
            });
    });
}

}  // namespace

void add(const std::uint8_t* a, const std::uint8_t* b, std::uint8_t* out, std::int64_t count, const AddConstants& k) {
    std::int64_t done = 0;
    switch (k.multipliers.kind) {
        case Requantization::kFloat32: done = add_float32(a, b, out, count, k); break;
        case Requantization::kDyadic: done = stays_narrow(k) ? add_dyadic(a, b, out, count, k) : 0; break;
        case Requantization::kFixed16: done = add_fixed16(a, b, out, count, k); break;
    }
    elementwise::add(a + done, b + done, out + done, count - done, k);
}

void multiply(const std::uint8_t* a, const std::uint8_t* b, std::uint8_t* out, std::int64_t pixels, std::int64_t count,
              const MultiplyConstants& k) {
    std::int64_t done = 0;
    if (k.multipliers.kind == Requantization::kFloat32)
        done = multiply_float32(a, b, out, pixels, count, k);
    else if (stays_narrow(k))
        done = multiply_dyadic(a, b, out, pixels, count, k);
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
