// Dense layers: checked, planned, and run as tasks of some pixels by some panels.
#include <algorithm>
#include <utility>

#include "dense_plan.hpp"
#include "program.hpp"

namespace oaq {
namespace {

// What the runs of a group read, from a window's first code on.
struct Extent {
    std::int64_t steps = 0, pairs = 0, lowest = 0, highest = 0;
};

struct Panel {
    DenseKernel kernel;
    DenseBlock block;  // of all pixels
};

// A layer as its step runs it. Panels point into the other members.
struct DenseWork {
    DenseLayer layer;
    std::vector<const std::uint8_t*> sources, wide_sources;  // first codes of every pixel's window
    std::vector<std::uint8_t*> targets;                      // of every pixel
    std::vector<Panel> panels;                               // of all groups
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

const DenseRoute& route_of(const KernelSet& kernels, int fold) {
    for (const DenseRoute& route : kernels.dense)
        if (route.kernel != nullptr && route.fold == fold) return route;
    throw std::invalid_argument("program: no kernel of this fold");
}

std::int64_t weights_of(int fold, const Extent& extent, std::size_t runs) {
    if (fold == kPairs) return (extent.pairs + static_cast<std::int64_t>(runs)) * kWidePanel * kPair;
    return fold == kExact ? extent.pairs * kPanel * kPair : extent.steps * kPanel * kStep;
}

// Of a group with `outputs` channels; returns those of its panels, padding included.
std::int64_t validate(const DenseGroup& group, std::int64_t outputs, const Extent& extent) {
    require(group.panels.size() == group.folds.size(), "folds");
    std::int64_t channels = 0;
    for (std::size_t p = 0; p < group.panels.size(); ++p) {
        require(channels < outputs, "panels");
        channels += panel_width(group.folds[p]);
        require(static_cast<std::int64_t>(group.panels[p].size()) == weights_of(group.folds[p], extent, group.runs.size()),
                "weights of a panel");
    }
    require(channels >= outputs, "panels");
    require(static_cast<std::int64_t>(group.constants.bias.size()) >= channels, "constants");
    return channels;
}

// A group's panels, whose outputs start at `first_channel`.
void append_panels(const DenseGroup& group, std::int64_t first_channel, std::int64_t outputs, const KernelSet& kernels,
                   DenseWork& work) {
    std::int64_t channel = 0;
    for (std::size_t p = 0; p < group.panels.size(); ++p) {
        const int fold = group.folds[p], width = panel_width(fold);
        DenseBlock block;
        block.pixels = static_cast<int>(work.targets.size());
        block.in = (fold == kExact ? work.wide_sources : work.sources).data();
        block.out = work.targets.data();
        block.out_offset = first_channel + channel;
        block.runs = group.runs.data();
        block.run_count = static_cast<int>(group.runs.size());
        block.weights = group.panels[p].data();
        block.constants = group.constants.at(channel);
        block.channels = static_cast<int>(std::min<std::int64_t>(width, outputs - channel));
        block.code_offset = group.constants.code_offset;
        work.panels.push_back({route_of(kernels, fold).kernel, block});
        channel += width;
    }
}

}  // namespace

void Program::dense(const Value& in, const Value& out, DenseLayer layer) {
    check(in);
    check(out);
    const auto groups = static_cast<std::int64_t>(layer.groups.size());
    require(groups > 0 && out.channels % groups == 0, "groups");
    const std::int64_t outputs = out.channels / groups, pixels = out.height * out.width;
    std::int64_t lowest = 0, highest = 0;
    DenseSizes sizes{pixels, 0, 0, out.channels, 0, 0, 1};
    bool wide = false;
    for (const DenseGroup& group : layer.groups) {
        const Extent extent = checked_extent(group.runs);
        const std::int64_t depth = extent.steps * kStep, channels = validate(group, outputs, extent);
        lowest = std::min(lowest, extent.lowest);
        highest = std::max(highest, extent.highest);
        for (const int fold : group.folds) {
            sizes.rows = std::max(sizes.rows, route_of(kernels_, fold).rows);
            wide = wide || fold == kExact;
        }
        sizes.panels += static_cast<std::int64_t>(group.panels.size());
        sizes.read += depth;
        sizes.weight_bytes += channels * depth;
        sizes.products += pixels * outputs * depth;
    }

    const auto work = std::make_shared<DenseWork>();
    work->layer = std::move(layer);
    const Window& w = work->layer.window;
    for (std::int64_t y = 0; y < out.height; ++y) {
        for (std::int64_t x = 0; x < out.width; ++x) {
            const std::uint8_t* source = at(in, y * w.stride_h - w.padding_h, x * w.stride_w - w.padding_w);
            require(source + lowest >= arena_ && source + highest <= arena_ + arena_bytes_, "operands beyond the arena");
            work->sources.push_back(source);
            work->targets.push_back(at(out, y, x));
        }
    }
    if (wide) {
        if (!wide_) wide_.reset(new std::int16_t[static_cast<std::size_t>(arena_bytes_)]());
        for (const std::uint8_t* source : work->sources)
            work->wide_sources.push_back(reinterpret_cast<const std::uint8_t*>(wide_.get() + (source - arena_)));
    }
    for (std::int64_t g = 0; g < groups; ++g)
        append_panels(work->layer.groups[static_cast<std::size_t>(g)], g * outputs, outputs, kernels_, *work);

    const DensePlan plan = plan_dense(sizes, pool_.threads());
    step(&out, [this, in, wide, plan, pixels, work] {
        if (wide) widen(in);
        pool_.run(static_cast<int>(plan.tasks()), [&](int task) {
            const std::int64_t first = task / plan.parts * plan.block, part = task % plan.parts;
            const auto panels = static_cast<std::int64_t>(work->panels.size());
            for (std::int64_t p = panels * part / plan.parts; p < panels * (part + 1) / plan.parts; ++p) {
                const Panel& panel = work->panels[static_cast<std::size_t>(p)];
                DenseBlock block = panel.block;
                block.pixels = static_cast<int>(std::min(plan.block, pixels - first));
                block.in += first;
                block.out += first;
                panel.kernel(block);
            }
        });
    });
}

}  // namespace oaq
