// The kernels that accumulate products, and the one table of them that dispatch, tests and benchmarks read.
//
//   a pixel's codes, side by side    a0   a1   a2   a3 | a4 ...   a step of 4, the same for all channels
//                                    x    x    x    x
//   weights of a panel, channel 0    w0   w1   w2   w3 |          int8 [steps][16][4]
//                       channel 1    w0   w1   w2   w3 |
//                       ...           \   /      \   /
//                                    + pair    + pair             one instruction each; saturates to 16 bits
//                                       |         |
//   two halves per channel, 16 bits     + ...     + ...           wrap over the steps of the route's fold, or over all
//                                        \       /
//   one sum per channel                      +                    of 32 bits, or modulo 2^16
//                                            |
//   a code                           + bias, * multiplier, rounded, + zero_point, clamped
//
// Dense layers. A pixel's operands are `runs` of consecutive codes, cut into steps of 4 codes; weights are packed in
// panels of 16 output channels: for every step int8 [16][4]. A kernel computes pixels by one panel, several at a
// time. Within a step the products of codes 0, 1 and those of codes 2, 3 are summed by one instruction each, which
// saturates to int16 ("pair"); the two sums per channel are kept apart ("halves").
//   whole     16-bit accumulation: halves wrap, their sum is taken modulo 2^16
//   folded    halves of `fold` steps wrap in 16 bits, then go to a 32-bit accumulator; what is left at the end of a run
//             goes there together. A fold of 1 is the usual route of x86 int8 runtimes.
//   pairs     as whole, for 32 channels at a time with one sum each. A run of P pairs of codes has P + 1 times int8
//             [32][2]: the i-th holds the weights of pair i - 1 for even channels and those of pair i for odd ones,
//             zero where there is none; channels in the order of depthwise blocks
//   exact     products go to 32 bits at once, two by two. Codes are read as int16, twice as far from the pixel's first
//             one; weights are int8 [16][2] per pair of codes
// Depthwise layers. The taps of one channel are packed in pairs (a, b), int8 [32][2] per block of 32 channels, which stand
// in the order 0-7, 16-23, 8-15, 24-31 (that of codes interleaved within 128-bit lanes); pair sums saturate to int16.
// whole: all pairs are added modulo 2^16; folded: `fold` pairs, then 32 bits. (A pair of one tap cannot saturate, so that
// a fold of 1 over single taps is exact.)
// Afterwards both: where 16-bit accumulation or a wrap_shift above 0 keeps fewer bits, acc is sign-extended from its
// lowest `32 - wrap_shift` bits and bias is added; elsewhere bias is part of start, and not read. That is y, of 32 bits,
// and the code is `clamp(value + zero_point, 0, q_max)` with the value of the layer's requantization:
//   float32   rint(float32(y) * multiplier), without fma
//   dyadic    (y * multiplier + 2^(shift - 1)) >> shift, in 64 bits
//   fixed16   (y saturated to 16 bits * multiplier + 2^14) >> 15: the multiplication of 16-bit vectors, rounded
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>

namespace oaq {

constexpr int kPanel = 16;        // output channels of a dense panel
constexpr int kStep = 4;          // codes of a step
constexpr int kWidePanel = 32;    // output channels of a panel of the route pairs
constexpr int kPair = 2;          // codes of its steps
constexpr int kChannelBlock = 32; // channels of a depthwise block
constexpr int kLargestBias = 1 << 22;  // sums of 16 bits with their bias are exact in float32, by way of 2^23
constexpr int kMostRoutes = 8;
constexpr std::size_t kSlack = 64;  // bytes that kernels may read beyond the last code (multiplied by zero, or dropped)
constexpr std::size_t kSlackBefore = 2;  // and before the first one

enum class Sums { kExact, kFolded, kWhole, kPairs };
constexpr const char* kSumsNames[] = {"exact", "folded", "whole", "pairs"};  // in the order of Sums

// How the products of a panel, or of a block of channels, are summed.
struct Route {
    Sums sums;
    int fold = 0;  // of kFolded, at least 1

    constexpr bool wraps() const { return sums == Sums::kWhole || sums == Sums::kPairs; }  // results are modulo 2^16
    constexpr int width() const { return sums == Sums::kPairs ? kWidePanel : kPanel; }     // channels of a dense panel
    constexpr const char* name() const { return kSumsNames[static_cast<int>(sums)]; }
    constexpr bool operator==(const Route& other) const { return sums == other.sums && fold == other.fold; }
};
constexpr Route folded(int fold) { return {Sums::kFolded, fold}; }

enum class Requantization { kFloat32, kDyadic, kFixed16 };
constexpr const char* kRequantizationNames[] = {"float32", "dyadic", "fixed16"};  // in the order of Requantization

// Multipliers of one kind; arrays that it does not have are null.
struct Multipliers {
    Requantization kind;
    const float* real;            // float32: above 0
    const std::int32_t* integer;  // dyadic: from 0 on; fixed16: 1 to 2^15 - 1
    const std::int32_t* shift;    // dyadic: 1 to 62
};

struct Run {
    std::int32_t offset;  // codes from the pixel's first one
    std::int32_t steps;   // of kStep codes
    std::int32_t pairs;   // the same in pairs, of which the last step may need one only
};

// Constants of outputs; arrays are padded to whole panels or channel blocks. Values of float32 and dyadic have to stay within
// 2^31 - 256 for all that y can be; |bias| at most kLargestBias where a route wraps, of 16 bits in fixed16.
struct OutputConstants {
    const std::int32_t* start;      // first value of the accumulator: -zero_point * sum(weights)
    const std::int32_t* bias;
    Multipliers multipliers;
    int wrap_shift;
    int zero_point, q_max;
};

struct DenseBlock {
    int pixels;                     // at least one
    const std::uint8_t* const* in;  // of every pixel; int16 where the route is exact
    std::uint8_t* const* out;       // of every pixel; written from `out_offset` on
    std::ptrdiff_t out_offset;
    const Run* runs;                // at least one, of at least one pair each
    int run_count;
    const std::int8_t* weights;
    OutputConstants constants;                  // of this panel
    int channels;                   // of this panel, at most the route's width
    int code_offset;                // subtracted from every code, except where the route is exact; not 0 only where a
                                    // set's `largest_code` asks for it
};
using DenseKernel = void (*)(const DenseBlock&);

constexpr int depthwise_place(int channel) { return (channel & 7) | (channel & 8) << 1 | (channel & 16) >> 1; }

struct TapPair {
    std::int32_t a, b;  // bytes from the output pixel's first code of the input; b may repeat a with weight 0
};

struct DepthwiseBlock {
    const std::uint8_t* in;         // first output pixel's position, first channel of the block
    std::uint8_t* out;
    int rows, pixels;               // output pixels of every row
    std::ptrdiff_t in_row, out_row; // bytes between rows
    std::ptrdiff_t in_step, out_step;  // bytes between pixels
    const TapPair* taps;
    int tap_count;
    const std::int8_t* weights;     // [tap_count][32][2], channel c at depthwise_place(c)
    OutputConstants constants;                  // of this block
    int channels;                   // of this block, at most kChannelBlock
    Route route;                    // whole or folded
    int code_offset;
};
using DepthwiseKernel = void (*)(const DepthwiseBlock&);

// To the value of a code, clamped as above:
//   float32          rint(((a - zero_a) * real[0] + (b - zero_b) * real[1]) / real[2])
//   dyadic, fixed16  ((a - zero_a) * integer[0] + (b - zero_b) * integer[1] + 2^(shift[0] - 1)) >> shift[0]; fixed16: with
//                    multipliers below 2^15 and a shift of at most 30, so that 32 bits hold it
struct AddConstants {
    Multipliers multipliers;
    int zero_a, zero_b, zero_point, q_max;
};
using AddKernel = void (*)(const std::uint8_t* a, const std::uint8_t* b, std::uint8_t* out, std::int64_t count,
                           const AddConstants& constants);

// (a - zero_a) * (b - zero_b) in int32, then as a layer's sum to a code, by one multiplier of float32 or dyadic; of `pixels`
// times `count` codes, the same b for every pixel.
struct MultiplyConstants {
    Multipliers multipliers;
    int zero_a, zero_b, zero_point, q_max;
};
using MultiplyKernel = void (*)(const std::uint8_t* a, const std::uint8_t* b, std::uint8_t* out, std::int64_t pixels,
                                std::int64_t count, const MultiplyConstants& constants);

// table[code] of every code; `out` may be `in`.
using LookupKernel = void (*)(const std::uint8_t* in, std::uint8_t* out, std::int64_t count, const std::uint8_t* table);

struct DenseRoute {
    Route route;
    int pixels;          // that share a load of weights
    DenseKernel kernel;
};

// One instruction set's kernels. `largest_code`: largest unsigned code that they multiply as it is; where a tensor has
// larger ones, 128 is taken off every code first (NEON multiplies signed codes), and bounds are those of the shifted
// codes. `saturates`: pairs saturate, so that the route whole is exact modulo 2^16 only where no pair can; otherwise they wrap.
struct KernelSet {
    const char* name;
    bool (*available)();
    int largest_code;
    bool saturates;
    DenseRoute dense[kMostRoutes];  // without a kernel where there are fewer
    DepthwiseKernel depthwise;
    AddKernel add;
    MultiplyKernel multiply;
    LookupKernel lookup;
};

// All sets compiled in, best first; portable is last and always available.
extern const KernelSet* const kKernelSets[];
extern const int kKernelSetCount;

// The set of that name; throws std::invalid_argument where it is unknown or not available here. Which one is taken where
// none is asked for: engine/routes.py.
const KernelSet& kernels_named(const std::string& name);

}  // namespace oaq
