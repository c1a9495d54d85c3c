// Dense layers: checked, planned, and run as tasks of some pixels by some panels.
#include <algorithm>
#include <utility>

#include "layer_work.hpp"

namespace oaq {
namespace {

// What the runs of a group read, from a window's first code on.
struct Extent {
    std::int64_t steps = 0, pairs = 0, lowest = 0, highest = 0;
};

// What a checked layer comes to.
struct Demands {
    DenseSizes sizes;
    std::int64_t outputs;          // of a group
    std::int64_t lowest, highest;  // what is read, from a window's first code on
    bool wide;                     // whether a route reads codes as int16
};

Extent checked_extent(const std::vector<Run>& runs) {
    require(!runs.empty(), "no runs");
    Extent extent;
    for (const Run& run : runs) {
        require(run.pairs > 0 && (run.pairs * kPair + kStep - 1) / kStep == run.steps, "pairs of a run");
        extent.steps += run.steps;
        extent.pairs += run.pairs;
        extent.lowest = std::min<std::int64_t>(extent.lowest, run.offset);
        extent.highest = std::max<std::int64_t>(extent.highest, run.offset + run.steps * kStep);
    }
    return extent;
}

const DenseRoute& kernel_of(const KernelSet& kernels, const Route& wanted) {
    for (const DenseRoute& route : kernels.dense)
        if (route.kernel != nullptr && route.route == wanted) return route;
    throw std::invalid_argument("program: no kernel of this route");
}

std::int64_t weights_of(const Route& route, const Extent& extent, std::size_t runs) {
    if (route.sums == Sums::kPairs) return (extent.pairs + static_cast<std::int64_t>(runs)) * kWidePanel * kPair;
    return route.sums == Sums::kExact ? extent.pairs * kPanel * kPair : extent.steps * kPanel * kStep;
}


// Of a layer with so many pixels and channels; throws std::invalid_argument where its parts do not fit.
Demands checked(const DenseLayer& layer, std::int64_t pixels, std::int64_t channels, const KernelSet& kernels) {
    const auto groups = static_cast<std::int64_t>(layer.groups.size());
    require(groups > 0 && channels % groups == 0, "groups");
    Demands demands{{pixels, 0, 0, channels, 0, 0, 1}, channels / groups, 0, 0, false};
    DenseSizes& sizes = demands.sizes;
    for (const DenseGroup& group : layer.groups) {
        std::int64_t depth = 0, covered = 0;  // codes that a panel reads of a pixel, at most; channels of the panels so far
        for (const DensePanel& panel : group.panels) {
            const Extent extent = checked_extent(panel.runs);
            require(covered < demands.outputs, "panels");
            require(static_cast<std::int64_t>(panel.weights.size()) == weights_of(panel.route, extent, panel.runs.size()),
                    "weights of a panel");
            covered += panel.route.width();
            depth = std::max(depth, extent.steps * kStep);
            demands.lowest = std::min(demands.lowest, extent.lowest);
            demands.highest = std::max(demands.highest, extent.highest);
            demands.wide = demands.wide || panel.route.sums == Sums::kExact;
            sizes.tile = std::max(sizes.tile, kernel_of(kernels, panel.route).pixels);
            sizes.weight_bytes += panel.route.width() * extent.steps * kStep;
            sizes.products += pixels * panel.route.width() * extent.steps * kStep;
        }
        require(covered >= demands.outputs, "panels");
        require(static_cast<std::int64_t>(group.constants.bias.size()) >= covered, "constants");
        sizes.panels += static_cast<std::int64_t>(group.panels.size());
        sizes.read += depth;
    }
    return demands;
}

// A group's panels, whose outputs start at `first_channel`.
void append_panels(const DenseGroup& group, std::int64_t first_channel, std::int64_t outputs, const KernelSet& kernels,
                   DenseWork& work) {
    std::int64_t channel = 0;
    for (const DensePanel& panel : group.panels) {
        const int width = panel.route.width();
        DenseBlock block;
        block.pixels = static_cast<int>(work.sources.size());
        block.in = (panel.route.sums == Sums::kExact ? work.wide_sources : work.sources).data();
        block.out = nullptr;
        block.out_offset = first_channel + channel;
        block.runs = panel.runs.data();
        block.run_count = static_cast<int>(panel.runs.size());
        block.weights = block.next = panel.weights.data();
        block.constants = group.constants.at(channel);
        block.channels = static_cast<int>(std::min<std::int64_t>(width, outputs - channel));
        block.code_offset = group.constants.code_offset;
        work.panels.push_back({kernel_of(kernels, panel.route).kernel, block});
        channel += width;
    }
}

// The table's codes for `channels` codes from `offset` on of these pixels, side by side where they are.
void look_up(std::uint8_t* const* targets, std::int64_t count, std::int64_t offset, std::int64_t channels,
             const Table& table, LookupKernel lookup) {
    std::int64_t first = 0;
    while (first < count) {
        std::int64_t next = first + 1;
        while (next < count && targets[next] == targets[next - 1] + channels) ++next;
        lookup(targets[first] + offset, targets[first] + offset, (next - first) * channels, table.data());
        first = next;
    }
}

}  // namespace

void DenseWork::task(int task, std::uint8_t* const* targets, LookupKernel lookup) const {
    const std::int64_t first = task / plan.parts * plan.block, part = task % plan.parts;
    const auto count = static_cast<std::int64_t>(panels.size()), total = static_cast<std::int64_t>(sources.size());
    pixels(first, targets + first, std::min(plan.block, total - first), static_cast<std::size_t>(count * part / plan.parts),
           static_cast<std::size_t>(count * (part + 1) / plan.parts), lookup);
}

void DenseWork::pixels(std::int64_t first, std::uint8_t* const* targets, std::int64_t count, std::size_t begin,
                       std::size_t end, LookupKernel lookup) const {
    for (std::size_t p = begin; p < end; ++p) {
        const PanelWork& panel = panels[p];
        DenseBlock block = panel.block;
        if (p + 1 < end) block.next = panels[p + 1].block.weights;
        block.pixels = static_cast<int>(count);
        block.in += first;
        block.out = targets;
        panel.kernel(block);
    }
    if (layer.table.empty()) return;
    const DenseBlock& head = panels[begin].block;
    const DenseBlock& tail = panels[end - 1].block;
    look_up(targets, count, head.out_offset, tail.out_offset + tail.channels - head.out_offset, layer.table, lookup);
}

std::shared_ptr<const DenseWork> Program::dense_work(const Value& in, std::int64_t rows, std::int64_t columns,
                                                     std::int64_t channels, DenseLayer layer) {
    require(layer.table.empty() || layer.table.size() == 256, "table");
    const Demands demands = checked(layer, rows * columns, channels, kernels_);
    const auto work = std::make_shared<DenseWork>();
    work->layer = std::move(layer);
    work->plan = plan_dense(demands.sizes, pool_.threads());
    work->wide = demands.wide;
    const Window& w = work->layer.window;
    for (std::int64_t y = 0; y < rows; ++y) {
        for (std::int64_t x = 0; x < columns; ++x) {
            const std::uint8_t* source = at(in, y * w.stride_h - w.padding_h, x * w.stride_w - w.padding_w);
            require(source + demands.lowest >= arena_ && source + demands.highest <= arena_ + arena_bytes_, "operands beyond the arena");
            work->sources.push_back(source);
        }
    }
    if (demands.wide) {
        if (!wide_) wide_.reset(new std::int16_t[static_cast<std::size_t>(arena_bytes_)]());
        for (const std::uint8_t* source : work->sources)
            work->wide_sources.push_back(reinterpret_cast<const std::uint8_t*>(wide_.get() + (source - arena_)));
    }
    std::int64_t channel = 0;
    for (const DenseGroup& group : work->layer.groups) {
        append_panels(group, channel, demands.outputs, kernels_, *work);
        channel += demands.outputs;
    }
    return work;
}

void Program::dense(const Value& in, const Value& out, DenseLayer layer) {
    check(in);
    check(out);
    const Places places = layer.places;
    check(places, out);
    const std::int64_t rows = places.rows(out), columns = places.columns(out);
    std::vector<std::uint8_t*> targets;
    for (std::int64_t y = 0; y < rows; ++y)
        for (std::int64_t x = 0; x < columns; ++x)
            targets.push_back(at(out, places.first_h + y * places.step_h, places.first_w + x * places.step_w));
    step(&out, [this, in, targets = std::move(targets), work = dense_work(in, rows, columns, out.channels, std::move(layer))] {
        if (work->wide) widen(in);
        pool_.run(static_cast<int>(work->plan.tasks()),
                  [&](int task) { work->task(task, targets.data(), kernels_.lookup); });
    });
}

}  // namespace oaq
