// How the work of a dense layer is cut into tasks: blocks of pixels by ranges of panels. Sizes in, sizes out.
#pragma once

#include <cstdint>

namespace oaq {

struct DenseSizes {
    std::int64_t pixels;         // of the output
    std::int64_t panels;         // of weights, those of all groups
    std::int64_t read, written;  // codes of one pixel
    std::int64_t weight_bytes;
    std::int64_t products;
    int tile;                    // pixels that kernels take at a time
};

struct DensePlan {
    std::int64_t block;   // pixels, at most; a multiple of `tile`
    std::int64_t blocks;  // that cover all pixels, none of them empty
    std::int64_t parts;   // ranges of panels, at most as many as there are panels

    std::int64_t tasks() const { return blocks * parts; }
};

DensePlan plan_dense(const DenseSizes& sizes, int threads);

}  // namespace oaq
