// What is sought while a graph is compiled, where NumPy would take seconds: how long 16-bit sums may be, and orders of
// channels that make them longer (integer/engine/packing.py, reorder.py).
#pragma once

#include <cstdint>
#include <vector>

namespace oaq {

// Of the channels of packed panels, int8 [panels][steps][kPanel][kStep], whose runs have these steps.
struct SumBounds {
    std::vector<std::int64_t> longest;             // [panels][kPanel] the longest fold that no input overflows, 0: none
    std::vector<std::uint8_t> apart;               // [panels][steps][kPanel] whether a half sum of the step alone can
    std::vector<std::int64_t> positive, negative;  // [panels][kPanel] sums of the weights of either sign
};

// For codes from `lowest`, at most 0, to `highest`, at least 0; folds that are as good as a shorter one are left out.
SumBounds bound_sums(const std::int8_t* weights, std::int64_t panels, const std::vector<std::int32_t>& run_steps,
                     int lowest, int highest, const std::vector<int>& folds);

// Channels dealt to the halves of blocks of `block` steps: the largest first, each to the half whose worst sum stays
// smallest. reach: float32 [channels][sums], what a channel adds to every sum, none below 0. A channel of a lower rank
// stands before those of a higher one. Returns the channel of every position.
std::vector<std::int64_t> deal(const float* reach, std::int64_t channels, std::int64_t sums,
                               const std::vector<std::int64_t>& ranks, std::int64_t block);

// The order with channels exchanged, two at a time, as long as that makes cheaper what pairs cost. conflicts: bits
// [channels][channels][words], where two channels must not be a pair. costs: [words], of every bit, once per step of two pairs.
std::vector<std::int64_t> exchange(const std::uint64_t* conflicts, const std::vector<double>& costs,
                                   std::vector<std::int64_t> order);

}  // namespace oaq
