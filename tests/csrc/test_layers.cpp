// Whole layers of a program against emulate(): packing as packing.py does it, operands for which each route is certified.
#include <algorithm>
#include <cstring>
#include <functional>
#include <numeric>

#include "emulate.hpp"
#include "model.hpp"
#include "program.hpp"

namespace oaq::test {
namespace {

constexpr int kLayers = 300;  // of each kind
constexpr std::int64_t kAlignment = 64;

struct Layer {
    Geometry geometry;
    Route route;
    int q_max, zero_point, code_offset;
    std::vector<std::int8_t> weight;  // [O, kh, kw, I / groups]

    Layer(Random& random, const KernelSet& set, bool depthwise, const Route& chosen) : route(chosen) {
        const int groups = depthwise ? random.between(2, 70) : random.of({1, 1, 2, 3});
        const int inputs = depthwise ? 1 : random.between(1, 21), outputs = depthwise ? 1 : random.between(1, 37);
        const int kh = random.between(1, 3), kw = random.between(1, 3), dh = random.between(1, 2), dw = random.between(1, 2);
        const int top = random.between(0, 2), left = random.between(0, 2);
        const int bottom = random.between(0, 2), right = random.between(0, 2);
        const int height = dh * (kh - 1) + 1 + random.between(0, 5), width = dw * (kw - 1) + 1 + random.between(0, 5);
        geometry = {1, height, width, groups * inputs, groups * outputs, kh, kw, inputs,
                    random.between(1, 2), random.between(1, 2), top, left, bottom, right, dh, dw, groups};
        q_max = random.of({255, 127, 15, random.between(1, 255)});
        zero_point = random.between(0, q_max);
        code_offset = q_max > set.largest_code ? 128 : 0;
        // 2 * fold products of a half sum, all at the largest weight, fit 16 bits; pairs do where they saturate.
        const int most = route.sums == Sums::kExact ? 127 : route.wraps() ? (set.saturates ? 64 : 127) : 64 / route.fold;
        weight.resize(static_cast<std::size_t>(groups * outputs * kh * kw * inputs));
        for (std::int8_t& w : weight) w = static_cast<std::int8_t>(random.one_in(4) ? most : random.between(-most, most));
    }
};

// Values of a program that has one layer; the image's floats are its codes.
struct Setting {
    Value in, out;
    Program program;

    Setting(const Geometry& g, int fill, int border, int threads, const KernelSet& set)
        : in{0, g.height, g.width, g.channels, std::max(g.padding_h, g.padding_bottom) + border,
             std::max(g.padding_w, g.padding_right) + border, fill},
          out{0, g.output_height(), g.output_width(), g.outputs, border, 2 * border, 1},
          program(place(), threads, set) {}

    std::int64_t place() {
        std::int64_t end = 0;
        for (Value* value : {&in, &out}) {
            value->offset = end + value->border_h * value->row() + value->border_w * value->channels;
            end += (value->height + 2 * value->border_h) * value->row() + static_cast<std::int64_t>(kSlack);
            end = (end + kAlignment - 1) / kAlignment * kAlignment;
        }
        return end;
    }
};

LayerConstants layer_constants(Random& random, const Layer& layer, int first, int count, int block) {
    Constants constants(random, (count + block - 1) / block * block, layer.route.wraps() ? 16 : 0);
    const std::size_t depth = layer.weight.size() / static_cast<std::size_t>(layer.geometry.outputs);
    const int offset = layer.route.sums == Sums::kExact ? 0 : layer.code_offset;
    std::fill(constants.start.begin(), constants.start.end(), 0);
    for (int c = 0; c < count; ++c)
        for (std::size_t k = 0; k < depth; ++k)
            constants.start[static_cast<std::size_t>(c)] +=
                (offset - layer.zero_point) * layer.weight[static_cast<std::size_t>(first + c) * depth + k];
    if (!layer.route.wraps())
        std::transform(constants.start.begin(), constants.start.end(), constants.bias.begin(), constants.start.begin(),
                       std::plus<>());
    const auto aligned = [](const auto& values) { return Vector<std::decay_t<decltype(values[0])>>(values.begin(), values.end()); };
    return {aligned(constants.start), aligned(constants.bias), constants.multipliers(), constants.output.wrap_shift,
            constants.output.zero_point, constants.output.q_max, layer.code_offset};
}

// One run per tap, or per row of taps where those lie side by side in memory.
DenseGroup pack_group(const Layer& layer, const Value& in, int group, const LayerConstants& constants) {
    const Geometry& g = layer.geometry;
    const bool joined = g.groups == 1 && g.dilation_w == 1;
    const std::int64_t columns = joined ? 1 : g.kernel_w, length = joined ? g.kernel_w * g.channels : g.group_inputs;
    const std::int64_t outputs = g.outputs / g.groups;
    DenseGroup packed;
    const int width = layer.route.width();
    for (std::int64_t first = 0; first < outputs; first += width) {
        DenseWeights panel;
        panel.width = width;
        std::int64_t run = 0;
        for (std::int64_t y = 0; y < g.kernel_h; ++y)
            for (std::int64_t x = 0; x < columns; ++x, ++run) {
                const std::int64_t offset = y * g.dilation_h * in.row() + x * g.dilation_w * g.channels + group * g.group_inputs;
                const int begin = panel.steps;
                panel.add_run(static_cast<int>(offset), static_cast<int>(length));
                for (std::int64_t c = 0; c < std::min<std::int64_t>(width, outputs - first); ++c)
                    for (std::int64_t k = 0; k < length; ++k)
                        panel.weight(begin + static_cast<int>(k / kStep), static_cast<int>(c), k % kStep) = layer.weight[
                            static_cast<std::size_t>(((group * outputs + first + c) * g.kernel_h * columns + run) * length + k)];
            }
        const std::vector<std::int8_t> weights = panel.packed(layer.route);
        packed.panels.push_back({panel.runs, {weights.begin(), weights.end()}, layer.route});
    }
    packed.constants = constants;
    return packed;
}

DepthwiseLayer pack_depthwise(Random& random, const Layer& layer, const Window& window, const Value& in,
                              const LayerConstants& constants) {
    const Geometry& g = layer.geometry;
    DepthwiseLayer packed;
    packed.window = window;
    const std::int64_t count = g.kernel_h * g.kernel_w;
    const auto place = [&](std::int64_t i) {
        return static_cast<std::int32_t>(i / g.kernel_w * g.dilation_h * in.row() + i % g.kernel_w * g.dilation_w * g.channels);
    };
    for (std::int64_t first = 0; first < g.channels; first += kChannelBlock) {
        // The taps in any order; every block has its own.
        std::vector<std::int64_t> order(static_cast<std::size_t>(count));
        std::iota(order.begin(), order.end(), 0);
        for (std::int64_t i = count - 1; i > 0; --i)
            std::swap(order[static_cast<std::size_t>(i)], order[static_cast<std::size_t>(random.between(0, i))]);
        DepthwisePanel panel{{}, {}, layer.route};
        for (std::size_t i = 0; i < order.size(); i += 2) {
            const bool pair = i + 1 < order.size();
            panel.taps.push_back({place(order[i]), place(order[pair ? i + 1 : i])});
            const std::size_t at = panel.weights.size();
            panel.weights.resize(at + kChannelBlock * 2, 0);
            for (std::int64_t c = first; c < std::min(first + kChannelBlock, g.channels); ++c)
                for (std::size_t j = 0; j < (pair ? 2 : 1); ++j)
                    panel.weights[at + static_cast<std::size_t>(depthwise_place(static_cast<int>(c - first))) * 2 + j] =
                        layer.weight[static_cast<std::size_t>(c * count + order[i + j])];
        }
        packed.panels.push_back(std::move(panel));
    }
    packed.constants = constants;
    return packed;
}

void test_layer(Random& random, const KernelSet& set, bool depthwise, const Route& route) {
    const Layer layer(random, set, depthwise, route);
    const Geometry& g = layer.geometry;
    Setting setting(g, layer.zero_point, random.between(0, 1), random.of({1, 1, 2}), set);
    setting.program.quantize(setting.in, {1.0f, 0, layer.q_max});
    const int groups = depthwise ? 1 : static_cast<int>(g.groups), outputs = static_cast<int>(g.outputs) / groups;
    const Window window{g.kernel_h, g.kernel_w, g.stride_h, g.stride_w, g.padding_h, g.padding_w,
                        g.padding_bottom, g.padding_right, g.dilation_h, g.dilation_w};
    std::vector<LayerConstants> constants;
    Table table(random.one_in(2) ? 256 : 0);
    for (std::uint8_t& code : table) code = static_cast<std::uint8_t>(random.between(0, 255));
    DenseLayer packed{window, {}, {}, table};
    for (int i = 0; i < groups; ++i) {
        constants.push_back(layer_constants(random, layer, i * outputs, outputs, depthwise ? kChannelBlock : kWidePanel));
        if (!depthwise) packed.groups.push_back(pack_group(layer, setting.in, i, constants.back()));
    }
    if (depthwise) {
        DepthwiseLayer blocks = pack_depthwise(random, layer, window, setting.in, constants[0]);
        blocks.table = table;
        setting.program.depthwise(setting.in, setting.out, std::move(blocks));
    } else {
        setting.program.dense(setting.in, setting.out, std::move(packed));
    }

    std::vector<float> image(static_cast<std::size_t>(g.channels * g.height * g.width));
    std::vector<std::uint8_t> codes(image.size());
    for (std::size_t i = 0; i < codes.size(); ++i) {
        codes[i] = static_cast<std::uint8_t>(random.one_in(3) ? layer.q_max : random.between(0, layer.q_max));
        const std::size_t channels = static_cast<std::size_t>(g.channels);
        image[i % channels * (codes.size() / channels) + i / channels] = codes[i];
    }
    const std::size_t results = static_cast<std::size_t>(g.output_height() * g.output_width() * g.outputs);
    std::vector<std::uint8_t> found(results), events(results);
    std::vector<std::int32_t> acc(results);
    const Policy policy{route.wraps() ? 16 : 32, false, 1, 0};
    emulate(codes.data(), layer.weight.data(), g, layer.zero_point, policy, acc.data(), events.data());
    for (int run = 0; run < 2; ++run) {  // the second on what the first left in memory
        setting.program.run(image.data(), {});
        setting.program.read(setting.out, found.data());
        for (std::size_t i = 0; i < results; ++i) {
            const int channel = static_cast<int>(i) % static_cast<int>(g.outputs);
            const OutputConstants output = constants[static_cast<std::size_t>(channel / outputs)].at(0);
            const int code = code_of(acc[i], true, output, channel % outputs);
            expect_same(found[i], table.empty() ? code : table[static_cast<std::size_t>(code)],
                        "%s, %s layer, %s %d, %d channels, %d outputs, q_max %d: code %d", set.name,
                        depthwise ? "depthwise" : "dense", route.name(), route.fold, static_cast<int>(g.channels), static_cast<int>(g.outputs),
                        layer.q_max, static_cast<int>(i));
        }
    }
}

}  // namespace

void test_layers(Random& random, const KernelSet& set) {
    int dense = 0;
    for (int n = 0; n < kLayers; ++n) {
        const DenseRoute& route = set.dense[n % kMostRoutes];
        if (route.kernel != nullptr) {
            test_layer(random, set, false, route.route);
            ++dense;
        }
        test_layer(random, set, true, n % 6 == 0 ? Route{Sums::kWhole} : folded(n % 6));
    }
    std::printf(", %d dense and %d depthwise layers: all the same\n", dense, kLayers);
}

}  // namespace oaq::test
