// Depthwise kernels for x86-64 with AVX2.
// 32 channels a vector: two taps' codes, interleaved, give 16-bit sums in the order of Epilogue32.
#include <algorithm>
#include <array>

#include "avx2_epilogue.hpp"

namespace oaq::avx2 {
namespace {

// sum = the products of two taps. As assembly, because GCC (12, 13) otherwise loads all taps ahead and spills them.
OAQ_INLINE void set_pair(__m256i (&sum)[2], const std::uint8_t* a, const std::uint8_t* b, __m256i w0, __m256i w1) {
    __m256i other;
    asm("vmovdqu %[in], %[s1]\n\t"
        "vmovdqu %[next], %[other]\n\t"
        "vpunpcklbw %[other], %[s1], %[s0]\n\t"
        "vpunpckhbw %[other], %[s1], %[s1]\n\t"
        "vpmaddubsw %[w0], %[s0], %[s0]\n\t"
        "vpmaddubsw %[w1], %[s1], %[s1]"
        : [s0] "=&x"(sum[0]), [s1] "=&x"(sum[1]), [other] "=&x"(other)
        : [in] "m"(at<kChannelBlock>(a)), [next] "m"(at<kChannelBlock>(b)), [w0] "xm"(w0), [w1] "xm"(w1));
}

OAQ_INLINE void add_pair(__m256i (&sum)[2], const std::uint8_t* a, const std::uint8_t* b, __m256i w0, __m256i w1) {
    __m256i products[2];
    set_pair(products, a, b, w0, w1);
    each<2>([&](auto h) OAQ_LAMBDA { asm("vpaddw %[p], %[s], %[s]" : [s] "+x"(sum[h]) : [p] "x"(products[h])); });
}

// acc += a + b in 32 bits.
OAQ_INLINE void add_both(const __m256i (&a)[2], const __m256i (&b)[2], __m256i (&acc)[4]) {
    const __m256i ones = _mm256_set1_epi16(1);
    each<2>([&](auto h) OAQ_LAMBDA {
        const __m256i low = _mm256_madd_epi16(_mm256_unpacklo_epi16(a[h], b[h]), ones);
        const __m256i high = _mm256_madd_epi16(_mm256_unpackhi_epi16(a[h], b[h]), ones);
        acc[2 * h] = _mm256_add_epi32(acc[2 * h], low);
        acc[2 * h + 1] = _mm256_add_epi32(acc[2 * h + 1], high);
    });
}

template <Requantization K>
OAQ_INLINE void begin(const Epilogue32<K>& epilogue, __m256i (&acc)[4]) {
    each<4>([&](auto v) OAQ_LAMBDA { acc[v] = epilogue.start[v]; });
}

OAQ_INLINE void begin(__m256i (&sum)[2]) { sum[0] = sum[1] = _mm256_setzero_si256(); }

// Calls pixel(in, out) for all.
template <typename Pixel>
OAQ_INLINE void each_pixel(const DepthwiseBlock& block, const Pixel& pixel) {
    for (int y = 0; y < block.rows; ++y) {
        const std::uint8_t* in = block.in + y * block.in_row;
        std::uint8_t* out = block.out + y * block.out_row;
        for (int x = 0; x < block.pixels; ++x, in += block.in_step, out += block.out_step) pixel(in, out);
    }
}

// Any number of pairs of taps.
template <Requantization K>
void depthwise_any(const DepthwiseBlock& block) {
    const Epilogue32<K> epilogue(block.constants);
    const auto add = [&](__m256i (&sum)[2], const std::uint8_t* in, int first, int last) OAQ_LAMBDA {
        for (int t = first; t < last; ++t) {
            const std::int8_t* w = block.weights + t * kChannelBlock * 2;
            add_pair(sum, in + block.taps[t].a, in + block.taps[t].b, load(w), load(w + 32));
        }
    };
    const int count = block.tap_count, fold = block.route.fold;
    each_pixel(block, [&](const std::uint8_t* in, std::uint8_t* out) OAQ_LAMBDA {
        if (block.route.wraps()) {
            __m256i sum[2] = {epilogue.start16[0], epilogue.start16[1]};
            add(sum, in, 0, count);
            epilogue.write(out, block.channels, sum);
            return;
        }
        __m256i acc[4];
        begin(epilogue, acc);
        for (int t = 0; t < count; t += 2 * fold) {
            __m256i first[2], second[2];
            begin(first);
            begin(second);
            add(first, in, t, std::min(t + fold, count));
            add(second, in, t + fold, std::min(t + 2 * fold, count));
            add_both(first, second, acc);
        }
        epilogue.write(out, block.channels, acc);
    });
}

// PAIRS pairs of taps, as few as those of a 3x3 window: 5, more where some stand alone; FOLD of them to a 16-bit sum, 0:
// all, wrapping. The weights of 5 stay in registers.
template <Requantization K, int PAIRS, int FOLD>
void depthwise_few(const DepthwiseBlock& block) {
    const Epilogue32<K> epilogue(block.constants);
    const int channels = block.channels;
    std::ptrdiff_t a[PAIRS], b[PAIRS];
    __m256i w[PAIRS][2];
    each<PAIRS>([&](auto t) OAQ_LAMBDA {
        a[t] = block.taps[t].a;
        b[t] = block.taps[t].b;
        each<2>([&](auto h) OAQ_LAMBDA { w[t][h] = load(block.weights + t * kChannelBlock * 2 + 32 * h); });
    });
    each_pixel(block, [&](const std::uint8_t* in, std::uint8_t* out) OAQ_LAMBDA {
        const auto add = [&](__m256i (&sum)[2], auto t) OAQ_LAMBDA {
            add_pair(sum, in + a[t], in + b[t], w[t][0], w[t][1]);
        };
        if constexpr (FOLD == 0) {
            __m256i sum[2] = {epilogue.start16[0], epilogue.start16[1]};
            each<PAIRS>([&](auto t) OAQ_LAMBDA { add(sum, t); });
            epilogue.write(out, channels, sum);
        } else {
            __m256i acc[4];
            begin(epilogue, acc);
            each<(PAIRS + 2 * FOLD - 1) / (2 * FOLD)>([&](auto part) OAQ_LAMBDA {
                __m256i sums[2][2];
                each<2>([&](auto half) OAQ_LAMBDA {
                    constexpr int first = (2 * part + half) * FOLD, count = std::min(FOLD, PAIRS - first);
                    if constexpr (count <= 0) {
                        begin(sums[half]);
                    } else {
                        set_pair(sums[half], in + a[first], in + b[first], w[first][0], w[first][1]);
                        each<count - 1>(
                            [&](auto t) OAQ_LAMBDA { add(sums[half], std::integral_constant<int, first + 1 + t>()); });
                    }
                });
                add_both(sums[0], sums[1], acc);
            });
            epilogue.write(out, channels, acc);
        }
    });
}

constexpr int kFewest = 5, kMost = 9, kLongestFold = 5;  // of depthwise_few

template <Requantization K, int... N>
constexpr auto few_kernels(std::integer_sequence<int, N...>) {
    constexpr int kFolds = kLongestFold + 1;
    return std::array<DepthwiseKernel, sizeof...(N)>{depthwise_few<K, kFewest + N / kFolds, N % kFolds>...};
}

template <Requantization K>
void depthwise_of(const DepthwiseBlock& block) {
    static constexpr auto few =
        few_kernels<K>(std::make_integer_sequence<int, (kMost - kFewest + 1) * (kLongestFold + 1)>());
    const int fold = std::min(block.route.fold, block.tap_count);  // whole sums have the fold 0
    if (kFewest <= block.tap_count && block.tap_count <= kMost && fold <= kLongestFold)
        few[static_cast<std::size_t>((block.tap_count - kFewest) * (kLongestFold + 1) + fold)](block);
    else
        depthwise_any<K>(block);
}

}  // namespace

void depthwise(const DepthwiseBlock& block) {
    by_kind(block.constants.multipliers.kind, [&](auto kind) { depthwise_of<kind()>(block); });
}

}  // namespace oaq::avx2
