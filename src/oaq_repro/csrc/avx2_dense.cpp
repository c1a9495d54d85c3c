// Dense kernels for x86-64 with AVX2 and no dot-product instructions.
//
// vpmaddubsw multiplies 32 unsigned by 32 signed codes and adds pairs, saturating, to 16 sums of int16: with vpaddw, 32
// products in two instructions; vpmaddwd by ones and vpaddd, where 32-bit accumulators are needed, make it four. A tile
// of 6 pixels by two vectors (3 pixels where 16- and 32-bit accumulators live side by side) fills the 16 registers.
#include <algorithm>

#include "avx2.hpp"
#include "avx2_dense_ends.hpp"
#include "avx2_loops.hpp"

namespace oaq {
namespace avx2 {
namespace {

// Calls step(k, end, weights) along the runs: from which byte of every pixel up to which.
template <Loop S, typename Step>
OAQ_INLINE void along_runs(const DenseBlock& block, const Step& step) {
    constexpr int kBytes = S == Loop::kExact ? 2 : 1;  // of a code
    const std::int8_t* weights = block.weights;
    const Run* run = block.runs;
    const Run* const last = run + block.run_count;
    do {
        const std::ptrdiff_t first = run->offset * kBytes;
        const std::ptrdiff_t length = S == Loop::kHalves ? run->steps * kStep : run->pairs * kPair * kBytes;
        step(first - (S == Loop::kPairs ? kPair : 0), first + length, weights);
    } while (++run != last);
}

// Sums of all runs, from what `acc` holds.
template <Loop S, int R>
OAQ_INLINE void add_all(const DenseBlock& block, int first, __m256i (&acc)[R][2]) {
    if constexpr (R == 6)
        sum_runs<S>(acc, block.in + first, block.runs, block.run_count, block.weights);
    else
        along_runs<S>(block, [&](std::ptrdiff_t k, std::ptrdiff_t end, const std::int8_t*& w) OAQ_LAMBDA {
            sum_run<S>(acc, block.in + first, k, end, w);
        });
}

template <int R, Requantization K>
OAQ_INLINE void dense_wrap(const DenseBlock& block, const Epilogue16<K>& epilogue, int first) {
    __m256i halves[R][2];
    begin_halves<R, K>(block, halves);
    add_all<Loop::kHalves>(block, first, halves);
    join<R>(block, epilogue, first, halves);
}

// 32 channels, one 16-bit sum each, so that no halves are to be joined. 4 codes are broadcast, of which channels of even
// places take the upper pair and those of odd places the lower one: 2 codes further on, they change over.
template <int R, Requantization K>
OAQ_INLINE void dense_pairs(const DenseBlock& block, const Epilogue32<K>& epilogue, int first) {
    __m256i sums[R][2];
    each<R>([&](auto r) OAQ_LAMBDA { each<2>([&](auto v) OAQ_LAMBDA { sums[r][v] = epilogue.start16[v]; }); });
    add_all<Loop::kPairs>(block, first, sums);
    std::uint8_t* out[R];  // read before the first byte is written, which might be one of the tile's
    each<R>([&](auto r) OAQ_LAMBDA { out[r] = block.out[first + r] + block.out_offset; });
    each<R>([&](auto r) OAQ_LAMBDA { epilogue.write(out[r], block.channels, sums[r]); });
}

template <int R, Requantization K>
OAQ_INLINE void dense_exact(const DenseBlock& block, const Epilogue16<K>& epilogue, int first) {
    __m256i acc[R][2];
    begin<R>(block, acc);
    add_all<Loop::kExact>(block, first, acc);
    finish<R>(block, epilogue, first, acc);
}

// One step in 16 bits, then 32 bits: pixel by pixel, so that one pair of registers holds the halves of all.
template <int R>
OAQ_INLINE void add_single(const std::uint8_t* const (&in)[R], std::ptrdiff_t k, const std::int8_t* w, __m256i (&acc)[R][2]) {
    const __m256i w0 = load(w), w1 = load(w + 32);
    each<R>([&](auto r) OAQ_LAMBDA {
        __m256i halves[2];
        set_products(halves, in[r] + k, w0, w1);
        spill(acc[r], halves);
    });
}

// The codes from k up to `end` in 16 bits, then 32 bits.
template <int R>
OAQ_INLINE void add_steps(const std::uint8_t* const (&in)[R], std::ptrdiff_t k, std::ptrdiff_t end, const std::int8_t* w,
                          __m256i (&acc)[R][2]) {
    __m256i halves[R][2];
    const __m256i w0 = load(w), w1 = load(w + 32);
    each<R>([&](auto r) OAQ_LAMBDA { set_products(halves[r], in[r] + k, w0, w1); });
    for (k += kStep; k < end; k += kStep) {
        w += kPanel * kStep;
        const __m256i w0 = load(w), w1 = load(w + 32);
        each<R>([&](auto r) OAQ_LAMBDA { add_step<Loop::kHalves>(halves[r], in[r] + k, w0, w1); });
    }
    each<R>([&](auto r) OAQ_LAMBDA { spill(acc[r], halves[r]); });
}

template <int R, int S>
OAQ_INLINE void sum_fold(const DenseBlock& block, int first, __m256i (*result)[2]) {
    __m256i acc[R][2];
    begin<R>(block, acc);
    if constexpr (R == 3 && S > 1) {
        fold_runs<S>(acc, block.in + first, block.runs, block.run_count, block.weights);
    } else {
        const std::uint8_t* in[R];
        each<R>([&](auto r) OAQ_LAMBDA { in[r] = block.in[first + r]; });
        along_runs<Loop::kHalves>(block, [&](std::ptrdiff_t k, std::ptrdiff_t end, const std::int8_t*& w) OAQ_LAMBDA {
            while (k < end) {
                const std::ptrdiff_t stop = std::min(k + S * kStep, end);
                if constexpr (S == 1)
                    add_single<R>(in, k, w, acc);
                else
                    add_steps<R>(in, k, stop, w, acc);
                w += (stop - k) * kPanel;
                k = stop;
            }
        });
    }
    each<R>([&](auto r) OAQ_LAMBDA { each<2>([&](auto v) OAQ_LAMBDA { result[r][v] = acc[r][v]; }); });
}

// Accumulators of 16 and of 32 bits live side by side for 3 pixels only, so that 6 are two halves with one end.
template <int S, int R, Requantization K>
OAQ_INLINE void dense_fold(const DenseBlock& block, const Epilogue16<K>& epilogue, int first) {
    constexpr int kTop = S == 1 || R <= 3 ? R : 3;
    __m256i acc[R][2];
    sum_fold<kTop, S>(block, first, acc);
    if constexpr (R > kTop) sum_fold<R - kTop, S>(block, first + kTop, acc + kTop);
    finish<R>(block, epilogue, first, acc);
}

// All pixels, ROWS at a time; what is left over at the end as one tile of fewer.
template <int ROWS, typename Tile, int R = ROWS - 1>
OAQ_INLINE void rest(const DenseBlock& block, int first, const Tile& tile) {
    if constexpr (R > 0) {
        if (block.pixels - first == R)
            tile(first, std::integral_constant<int, R>());
        else
            rest<ROWS, Tile, R - 1>(block, first, tile);
    }
}
template <int ROWS, typename Tile>
OAQ_INLINE void tiles(const DenseBlock& block, const Tile& tile) {
    int first = 0;
    for (; first + ROWS <= block.pixels; first += ROWS) tile(first, std::integral_constant<int, ROWS>());
    rest<ROWS>(block, first, tile);
}

// All tiles with the constants of the block's requantization: tile(epilogue, first, rows).
template <template <Requantization> typename Epilogue, typename Tile>
OAQ_INLINE void all_tiles(const DenseBlock& block, const Tile& tile) {
    by_kind(block.constants.multipliers.kind, [&](auto kind) OAQ_LAMBDA {
        const Epilogue<kind()> constants(block.constants);
        const auto* epilogue = &constants;
        asm("" : "+r"(epilogue) : "m"(constants));  // stays in memory: the loops need all registers
        tiles<6>(block, [&](int first, auto rows) OAQ_LAMBDA { tile(*epilogue, first, rows); });
    });
}

void wrap_kernel(const DenseBlock& block) {
    all_tiles<Epilogue16>(block, [&](const auto& epilogue, int first, auto rows) OAQ_LAMBDA {
        dense_wrap<rows()>(block, epilogue, first);
    });
}

void pairs_kernel(const DenseBlock& block) {
    all_tiles<Epilogue32>(block, [&](const auto& epilogue, int first, auto rows) OAQ_LAMBDA {
        dense_pairs<rows()>(block, epilogue, first);
    });
}

template <int S>
void fold_kernel(const DenseBlock& block) {
    all_tiles<Epilogue16>(block, [&](const auto& epilogue, int first, auto rows) OAQ_LAMBDA {
        dense_fold<S, rows()>(block, epilogue, first);
    });
}

void exact_kernel(const DenseBlock& block) {
    all_tiles<Epilogue16>(block, [&](const auto& epilogue, int first, auto rows) OAQ_LAMBDA {
        dense_exact<rows()>(block, epilogue, first);
    });
}

}  // namespace
}  // namespace avx2

extern const KernelSet kAvx2;
const KernelSet kAvx2 = {
    "avx2", cpu_has_avx2, 255, true,
    {
        {{Sums::kExact}, 6, avx2::exact_kernel}, {{Sums::kPairs}, 6, avx2::pairs_kernel},
        {{Sums::kWhole}, 6, avx2::wrap_kernel}, {folded(1), 6, avx2::fold_kernel<1>}, {folded(2), 6, avx2::fold_kernel<2>},
        {folded(4), 6, avx2::fold_kernel<4>}, {folded(8), 6, avx2::fold_kernel<8>}, {folded(16), 6, avx2::fold_kernel<16>},
    },
    avx2::depthwise,
    avx2::add,
    avx2::multiply,
    avx2::lookup,
};

}  // namespace oaq
