// Layers as their steps run them, made before: a whole layer's tasks, or some rows of it at a time (program_rows.cpp).
#pragma once

#include <cstdint>
#include <vector>

#include "dense_plan.hpp"
#include "program.hpp"

namespace oaq {

struct PanelWork {
    DenseKernel kernel;
    DenseBlock block;  // of all pixels
};

// Panels point into the other members.
struct DenseWork {
    DenseLayer layer;
    DensePlan plan;
    bool wide;                                               // whether a route reads codes as int16
    std::vector<const std::uint8_t*> sources, wide_sources;  // first codes of every pixel's window
    std::vector<PanelWork> panels;                           // of all groups

    // One of plan.tasks(). targets: of every pixel.
    void task(int task, std::uint8_t* const* targets, LookupKernel lookup) const;
    // `count` pixels, whose windows are the sources from `first` on, by the panels from `begin` to `end`.
    void pixels(std::int64_t first, std::uint8_t* const* targets, std::int64_t count, std::size_t begin, std::size_t end,
                LookupKernel lookup) const;
};

struct DepthwiseWork {
    DepthwiseLayer layer;
    std::int64_t in_row, channels, columns;  // bytes of a row that is read, pixels that are written of a row
    std::int64_t out_row;                    // bytes

    // `rows` rows. in: the first one's window, at its first pixel. out: its first pixel.
    void rows(const std::uint8_t* in, std::uint8_t* out, std::int64_t rows, const KernelSet& kernels) const;
    // Half the products of a row.
    std::int64_t products() const;
};

}  // namespace oaq
