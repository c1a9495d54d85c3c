#include "dense_plan.hpp"

#include <algorithm>

#include "pool.hpp"

namespace oaq {
namespace {

constexpr std::int64_t kPixelBytes = 64 * 1024;  // codes read and written of one task's pixels, to stay in the L2 cache
constexpr std::int64_t kLargeWeights = 256 * 1024;  // weights that are read once rather than once per task
constexpr std::int64_t kSmallInput = 512 * 1024;    // unless the pixels are more than this
constexpr std::int64_t kProductsPerOperation = 64;  // of kPiece

std::int64_t ceil_div(std::int64_t a, std::int64_t b) { return (a + b - 1) / b; }

}  // namespace

DensePlan plan_dense(const DenseSizes& s, int threads) {
    const bool large = s.weight_bytes > kLargeWeights;
    std::int64_t block = std::max<std::int64_t>(s.tile, kPixelBytes / (s.read + s.written) / s.tile * s.tile);
    if (large && s.pixels * s.read <= kSmallInput) block = s.pixels;
    std::int64_t blocks = ceil_div(s.pixels, std::min(block, s.pixels));
    const std::int64_t wanted = threads == 1 ? 1
        : std::clamp<std::int64_t>(s.products / (kPiece * kProductsPerOperation), 1, kPiecesPerThread * threads);
    if (blocks < wanted && !large && ceil_div(s.pixels, s.tile) >= wanted) blocks = wanted;
    block = ceil_div(ceil_div(s.pixels, blocks), s.tile) * s.tile;
    blocks = ceil_div(s.pixels, block);
    return {block, blocks, std::min(s.panels, ceil_div(wanted, blocks))};
}

}  // namespace oaq
