// Layers with weights: which memory each task of a thread reads and writes.
#include <algorithm>
#include <utility>

#include "program.hpp"
#include "requantize.hpp"

namespace oaq {
namespace {

constexpr std::int64_t kPixelBytes = 64 * 1024;  // codes read and written of one task's pixels, to stay in the L2 cache
constexpr std::int64_t kLargeWeights = 256 * 1024;  // weights that are read once rather than once per task
constexpr std::int64_t kSmallInput = 512 * 1024;    // unless the pixels are more than this

}  // namespace

void Program::dense(const Value& in, const Value& out, DenseLayer layer) {
    check(in);
    check(out);
    const Window& w = layer.window;
    const std::int64_t pixels = out.height * out.width, panels = static_cast<std::int64_t>(layer.panels.size());
    require(layer.panels.size() == layer.folds.size(), "folds");
    std::vector<std::int64_t> borders{0};  // first channels of the panels
    for (const int fold : layer.folds) borders.push_back(borders.back() + panel_width(fold));
    require(borders.back() >= layer.outputs && layer.first_channel + layer.outputs <= out.channels, "panels");
    require(static_cast<std::int64_t>(layer.requantization.bias.size()) >= borders.back(), "constants");
    std::int64_t steps = 0, pairs = 0, lowest = 0, highest = 0;
    require(!layer.runs.empty(), "no runs");
    for (const Run& run : layer.runs) {
        require(run.pairs > 0 && (run.pairs * kPair + kStep - 1) / kStep == run.steps, "pairs of a run");
        pairs += run.pairs;
        steps += run.steps;
        lowest = std::min<std::int64_t>(lowest, run.offset);
        highest = std::max<std::int64_t>(highest, run.offset + run.steps * kStep);
    }
    const auto runs = static_cast<std::int64_t>(layer.runs.size());
    for (std::size_t p = 0; p < layer.panels.size(); ++p) {
        const int fold = layer.folds[p];
        const std::int64_t weights = fold == kPairs ? (pairs + runs) * kWidePanel * kPair
                                     : fold == kExact ? pairs * kPanel * kPair : steps * kPanel * kStep;
        require(static_cast<std::int64_t>(layer.panels[p].size()) == weights, "weights of a panel");
    }
    std::vector<const std::uint8_t*> sources;
    std::vector<std::uint8_t*> targets;
    for (std::int64_t y = 0; y < out.height; ++y) {
        for (std::int64_t x = 0; x < out.width; ++x) {
            sources.push_back(at(in, y * w.stride_h - w.padding_h, x * w.stride_w - w.padding_w));
            targets.push_back(at(out, y, x) + layer.first_channel);
            require(sources.back() + lowest >= arena_ && sources.back() + highest <= arena_ + arena_bytes_,
                    "operands beyond the arena");
        }
    }
    std::vector<DenseKernel> kernels;
    int rows = 1;
    const bool wide = std::find(layer.folds.begin(), layer.folds.end(), kExact) != layer.folds.end();
    if (wide && !wide_) wide_.reset(new std::int16_t[static_cast<std::size_t>(arena_bytes_)]());
    if (layer.first_channel == 0) widened_ = false;
    const bool widens = wide && !widened_;  // the first such group of channels does it for all
    widened_ = widened_ || wide;
    std::vector<const std::uint8_t*> wide_sources;
    if (wide)
        for (const std::uint8_t* source : sources)
            wide_sources.push_back(reinterpret_cast<const std::uint8_t*>(wide_.get() + (source - arena_)));
    for (const int fold : layer.folds) {
        const DenseRoute* route = nullptr;
        for (const DenseRoute& candidate : kernels_.dense)
            if (candidate.kernel != nullptr && candidate.fold == fold) route = &candidate;
        require(route != nullptr, "no kernel of this fold");
        kernels.push_back(route->kernel);
        rows = std::max(rows, route->rows);
    }

    // Tasks: blocks of pixels by groups of panels.
    const std::int64_t depth = steps * kStep;
    std::int64_t block = std::max<std::int64_t>(rows, kPixelBytes / (depth + layer.outputs) / rows * rows);
    if (borders.back() * depth > kLargeWeights && pixels * depth <= kSmallInput) block = pixels;
    block = std::min(block, pixels);
    const std::int64_t wanted = pool_.threads() == 1 ? 1
        : std::clamp<std::int64_t>(pixels * layer.outputs * depth / (kPiece * 64), 1, kPiecesPerThread * pool_.threads());
    std::int64_t blocks = (pixels + block - 1) / block;
    if (blocks < wanted) {
        const std::int64_t tiles = (pixels + rows - 1) / rows;
        if (tiles >= wanted && borders.back() * depth <= kLargeWeights) blocks = wanted;
    }
    const std::int64_t tiles_per_block = ((pixels + blocks - 1) / blocks + rows - 1) / rows;
    block = tiles_per_block * rows;
    blocks = (pixels + block - 1) / block;
    const std::int64_t groups = std::min(panels, (wanted + blocks - 1) / blocks);

    // One group of channels fills the border for all.
    step(layer.first_channel == 0 ? &out : nullptr, [this, in, layer = std::move(layer), sources = std::move(sources),
                wide_sources = std::move(wide_sources), targets = std::move(targets), kernels = std::move(kernels),
                borders = std::move(borders), widens, pixels, panels, block, blocks, groups] {
        if (widens) widen(in);
        pool_.run(static_cast<int>(blocks * groups), [&](int task) {
            const std::int64_t first = task / groups * block, last = std::min(first + block, pixels);
            const std::int64_t group = task % groups;
            for (auto p = static_cast<std::size_t>(panels * group / groups);
                 p < static_cast<std::size_t>(panels * (group + 1) / groups); ++p) {
                const std::int64_t channel = borders[p];
                DenseBlock part;
                part.pixels = static_cast<int>(last - first);
                part.in = (layer.folds[p] == kExact ? wide_sources : sources).data() + first;
                part.out = targets.data() + first;
                part.out_offset = channel;
                part.runs = layer.runs.data();
                part.run_count = static_cast<int>(layer.runs.size());
                part.weights = layer.panels[p].data();
                part.output = layer.requantization.at(channel);
                part.channels = static_cast<int>(std::min(borders[p + 1], layer.outputs) - channel);
                part.code_offset = layer.requantization.code_offset;
                kernels[p](part);
            }
        });
    });
}

void Program::depthwise(const Value& in, const Value& out, DepthwiseLayer layer) {
    check(in);
    check(out);
    const auto blocks = static_cast<std::int64_t>(layer.panels.size());
    require(in.channels == out.channels && blocks == (out.channels + kChannelBlock - 1) / kChannelBlock, "blocks");
    require(static_cast<std::int64_t>(layer.requantization.bias.size()) >= blocks * kChannelBlock, "constants");
    const Window& w = layer.window;
    std::int64_t products = 0;  // of a pixel's channels, two by two
    for (std::int64_t b = 0; b < blocks; ++b) {
        const DepthwisePanel& panel = layer.panels[static_cast<std::size_t>(b)];
        require(panel.weights.size() == panel.taps.size() * kChannelBlock * 2, "weights of a block");
        for (const TapPair& tap : panel.taps) {
            for (const std::int32_t offset : {tap.a, tap.b}) {
                const std::uint8_t* first = at(in, -w.padding_h, -w.padding_w) + b * kChannelBlock + offset;
                const std::uint8_t* last = first + (out.height - 1) * w.stride_h * in.row() +
                                           (out.width - 1) * w.stride_w * in.channels + kChannelBlock;
                require(first >= arena_ && last <= arena_ + arena_bytes_, "operands beyond the arena");
            }
        }
        products += static_cast<std::int64_t>(panel.taps.size()) * kChannelBlock;
    }
    step(&out, [this, in, out, layer = std::move(layer), products] {
        split(out.height, out.width * products / 8, [&](std::int64_t first, std::int64_t last) {
            const Window& w = layer.window;
            DepthwiseBlock part;
            part.rows = static_cast<int>(last - first);
            part.pixels = static_cast<int>(out.width);
            part.in_row = w.stride_h * in.row();
            part.out_row = out.row();
            part.in_step = w.stride_w * in.channels;
            part.out_step = out.channels;
            part.code_offset = layer.requantization.code_offset;
            std::int64_t channel = 0;
            for (const DepthwisePanel& panel : layer.panels) {
                part.in = at(in, first * w.stride_h - w.padding_h, -w.padding_w) + channel;
                part.out = at(out, first) + channel;
                part.taps = panel.taps.data();
                part.tap_count = static_cast<int>(panel.taps.size());
                part.weights = panel.weights.data();
                part.output = layer.requantization.at(channel);
                part.channels = static_cast<int>(std::min<std::int64_t>(kChannelBlock, out.channels - channel));
                part.fold = panel.fold;
                kernels_.depthwise(part);
                channel += kChannelBlock;
            }
        });
    });
}

void Program::reference(const Value& in, const Value& out, Geometry geometry, Policy policy, int source_zero_point,
                        std::vector<std::int8_t> weight, Requantization requantization) {
    check(in);
    check(out);
    validate(geometry, source_zero_point, policy);
    require(in.channels == geometry.channels && out.channels == geometry.outputs && in.height == geometry.height &&
                in.width == geometry.width && out.height == geometry.output_height() &&
                out.width == geometry.output_width(), "geometry");
    const auto inputs = static_cast<std::size_t>(in.height * in.width * in.channels);
    const auto results = static_cast<std::size_t>(out.height * out.width * out.channels);
    step(&out, [this, in, out, geometry, policy, source_zero_point, weight = std::move(weight),
                requantization = std::move(requantization), codes = std::vector<std::uint8_t>(inputs),
                acc = std::vector<std::int32_t>(results), events = std::vector<std::uint8_t>(results)]() mutable {
        read(in, codes.data());
        conv2d(codes.data(), weight.data(), geometry, source_zero_point, policy, acc.data(), events.data());
        const std::int32_t* sums = acc.data();
        const Output output = requantization.at(0);
        for (std::int64_t y = 0; y < out.height; ++y) {
            std::uint8_t* row = at(out, y);
            for (std::int64_t x = 0; x < out.width; ++x)
                for (std::int64_t c = 0; c < out.channels; ++c)
                    *row++ = requantize(*sums++, output, static_cast<int>(c));
        }
    });
}

}  // namespace oaq
