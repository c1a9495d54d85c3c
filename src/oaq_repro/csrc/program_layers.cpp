// Depthwise layers, and layers whose accumulators no kernel has.
#include <algorithm>
#include <utility>

#include "layer_work.hpp"
#include "requantize.hpp"

namespace oaq {

void DepthwiseWork::rows(const std::uint8_t* in, std::uint8_t* out, std::int64_t rows, const KernelSet& kernels) const {
    const Window& w = layer.window;
    const Places& places = layer.places;
    DepthwiseBlock part;
    part.rows = static_cast<int>(rows);
    part.pixels = static_cast<int>(columns);
    part.in_row = w.stride_h * in_row;
    part.out_row = places.step_h * out_row;
    part.in_step = w.stride_w * channels;
    part.out_step = places.step_w * channels;
    part.code_offset = layer.constants.code_offset;
    std::int64_t channel = 0;
    for (const DepthwisePanel& panel : layer.panels) {
        part.in = in + channel;
        part.out = out + channel;
        part.taps = panel.taps.data();
        part.tap_count = static_cast<int>(panel.taps.size());
        part.weights = panel.weights.data();
        part.constants = layer.constants.at(channel);
        part.channels = static_cast<int>(std::min<std::int64_t>(kChannelBlock, channels - channel));
        part.route = panel.route;
        kernels.depthwise(part);
        channel += kChannelBlock;
    }
    if (layer.table.empty()) return;
    const std::int64_t together = places.step_w == 1 ? columns : 1;  // pixels that stand side by side
    for (std::int64_t y = 0; y < rows; ++y)
        for (std::int64_t x = 0; x < columns; x += together) {
            std::uint8_t* codes = out + y * part.out_row + x * part.out_step;
            kernels.lookup(codes, codes, together * channels, layer.table.data());
        }
}

std::int64_t DepthwiseWork::products() const {
    std::int64_t products = 0;  // of a pixel's channels, two by two
    for (const DepthwisePanel& panel : layer.panels) {
        const int weight = panel.route.sums == Sums::kExact ? 3 : 2;  // halves of the time that a pair in 16 bits takes
        products += static_cast<std::int64_t>(panel.taps.size()) * kChannelBlock * weight / 2;
    }
    return columns * products;
}

DepthwiseWork Program::depthwise_work(const Value& in, std::int64_t in_rows, const Value& out, DepthwiseLayer layer) const {
    const auto blocks = static_cast<std::int64_t>(layer.panels.size());
    require(in.channels == out.channels && blocks == (out.channels + kChannelBlock - 1) / kChannelBlock, "blocks");
    require(static_cast<std::int64_t>(layer.constants.bias.size()) >= blocks * kChannelBlock, "constants");
    require(layer.table.empty() || layer.table.size() == 256, "table");
    const Window& w = layer.window;
    check(layer.places, out);
    const std::int64_t columns = layer.places.columns(out);
    for (std::int64_t b = 0; b < blocks; ++b) {
        const DepthwisePanel& panel = layer.panels[static_cast<std::size_t>(b)];
        const Sums sums = panel.route.sums;
        require(sums == Sums::kWhole || sums == Sums::kExact || (sums == Sums::kFolded && panel.route.fold > 0),
                "route of a block");
        require(panel.weights.size() == panel.taps.size() * kChannelBlock * 2, "weights of a block");
        for (const TapPair& tap : panel.taps) {
            for (const std::int32_t offset : {tap.a, tap.b}) {
                const std::uint8_t* first = at(in, -w.padding_h, -w.padding_w) + b * kChannelBlock + offset;
                const std::uint8_t* last = first + (in_rows - 1) * w.stride_h * in.row() +
                                           (columns - 1) * w.stride_w * in.channels + kChannelBlock;
                require(first >= arena_ && last <= arena_ + arena_bytes_, "operands beyond the arena");
            }
        }
    }
    return {std::move(layer), in.row(), in.channels, columns, out.row()};
}

void Program::depthwise(const Value& in, const Value& out, DepthwiseLayer layer) {
    check(in);
    check(out);
    const std::int64_t rows = layer.places.rows(out);
    step(&out, [this, in, out, rows, work = depthwise_work(in, rows, out, std::move(layer))] {
        split(rows, work.products() / 8, [&](std::int64_t first, std::int64_t last) {
            const Window& w = work.layer.window;
            const Places& places = work.layer.places;
            work.rows(at(in, first * w.stride_h - w.padding_h, -w.padding_w),
                      at(out, places.first_h + first * places.step_h, places.first_w), last - first, kernels_);
        });
    });
}

void Program::emulate(const Value& in, const Value& out, Geometry geometry, Policy policy, int source_zero_point,
                      std::vector<std::int8_t> weight, LayerConstants constants, Places places,
                      std::array<std::int64_t, 2> skip, Table table) {
    require(table.empty() || table.size() == 256, "table");
    check(in);
    check(out);
    check(places, out);
    validate(geometry, source_zero_point, policy);
    require(in.channels == geometry.channels && out.channels == geometry.outputs && in.height == geometry.height &&
                in.width == geometry.width && skip[0] >= 0 && skip[0] + places.rows(out) <= geometry.output_height() &&
                skip[1] >= 0 && skip[1] + places.columns(out) <= geometry.output_width(), "geometry");
    const auto inputs = static_cast<std::size_t>(in.height * in.width * in.channels);
    const auto results = static_cast<std::size_t>(geometry.output_height() * geometry.output_width() * out.channels);
    step(&out, [this, in, out, geometry, policy, source_zero_point, places, skip, weight = std::move(weight),
                constants = std::move(constants), table = std::move(table), codes = std::vector<std::uint8_t>(inputs),
                acc = std::vector<std::int32_t>(results), events = std::vector<std::uint8_t>(results)]() mutable {
        read(in, codes.data());
        oaq::emulate(codes.data(), weight.data(), geometry, source_zero_point, policy, acc.data(), events.data());
        const OutputConstants all = constants.at(0);
        for (std::int64_t y = 0; y < places.rows(out); ++y) {
            for (std::int64_t x = 0; x < places.columns(out); ++x) {
                const std::int32_t* sums =
                    acc.data() + ((skip[0] + y) * geometry.output_width() + skip[1] + x) * out.channels;
                std::uint8_t* codes = at(out, places.first_h + y * places.step_h, places.first_w + x * places.step_w);
                for (std::int64_t c = 0; c < out.channels; ++c) codes[c] = requantize(sums[c], all, static_cast<int>(c));
                if (!table.empty()) kernels_.lookup(codes, codes, out.channels, table.data());
            }
        }
    });
}

}  // namespace oaq
