// Python class oaq_repro._kernels.Program, and the table of kernels.
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/array.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/pair.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/tuple.h>
#include <nanobind/stl/vector.h>

#include <algorithm>
#include <array>
#include <cstdint>
#include <cstring>
#include <optional>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include "program.hpp"

namespace nb = nanobind;
using namespace nb::literals;

namespace {

template <typename T>
using Flat = nb::ndarray<const T, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
template <typename T>
using Image = nb::ndarray<T, nb::c_contig, nb::device::cpu>;

template <typename T>
std::vector<T> copy(const Flat<T>& array) {
    return std::vector<T>(array.data(), array.data() + array.size());
}

template <typename T>
oaq::Vector<T> aligned(const Flat<T>& array) {
    return oaq::Vector<T>(array.data(), array.data() + array.size());
}

void expect_range(const oaq::Vector<std::int32_t>& values, const char* name, std::int32_t least, std::int32_t most) {
    for (const std::int32_t value : values)
        if (value < least || value > most)
            throw nb::value_error((std::string(name) + ": expected " + std::to_string(least) + " to " + std::to_string(most)).c_str());
}

oaq::MultiplierArrays real_multipliers(const Flat<float>& values) {
    return {oaq::Requantization::kFloat32, aligned(values)};
}

oaq::MultiplierArrays dyadic_multipliers(const Flat<std::int32_t>& integer, const Flat<std::int32_t>& shift) {
    if (integer.size() != shift.size()) throw nb::value_error("multiplier, shift: expected arrays of one length");
    oaq::MultiplierArrays made{oaq::Requantization::kDyadic, {}, aligned(integer), aligned(shift)};
    expect_range(made.integer, "multiplier", 0, INT32_MAX);
    expect_range(made.shift, "shift", 1, 62);
    return made;
}

// shift: of sums of two values.
oaq::MultiplierArrays fixed16_multipliers(const Flat<std::int32_t>& integer, const std::optional<Flat<std::int32_t>>& shift) {
    if (shift && integer.size() != shift->size()) throw nb::value_error("multiplier, shift: expected arrays of one length");
    oaq::MultiplierArrays made{oaq::Requantization::kFixed16, {}, aligned(integer)};
    if (shift) made.shift = aligned(*shift);
    expect_range(made.integer, "multiplier", 0, INT16_MAX);
    expect_range(made.shift, "shift", 1, 30);
    return made;
}

oaq::LayerConstants constants(const Flat<std::int32_t>& start, const Flat<std::int32_t>& bias,
                              const oaq::MultiplierArrays& multipliers, int wrap_shift, int zero_point, int q_max,
                              int code_offset) {
    oaq::LayerConstants made{aligned(start), aligned(bias), multipliers, wrap_shift, zero_point, q_max, code_offset};
    if (start.size() != bias.size() || multipliers.size() != bias.size())
        throw nb::value_error("constants: expected three arrays of one length");
    if (wrap_shift < 0 || wrap_shift > 31) throw nb::value_error("wrap_shift: expected 0 to 31");
    if (multipliers.kind == oaq::Requantization::kFixed16) expect_range(made.bias, "bias", INT16_MIN, INT16_MAX);
    return made;
}

using NamedRoute = std::pair<std::string, int>;  // routes as Python has them (engine/sums.py)

oaq::Route route_of(const NamedRoute& named) {
    for (const oaq::Sums sums : {oaq::Sums::kExact, oaq::Sums::kFolded, oaq::Sums::kWhole, oaq::Sums::kPairs}) {
        const oaq::Route route{sums, named.second};
        if (named.first == route.name()) return route;
    }
    throw nb::value_error("route: expected a name of kSumsNames");
}

using Runs = nb::ndarray<const std::int32_t, nb::shape<-1, 3>, nb::c_contig, nb::device::cpu>;
using Panel = nb::ndarray<const std::int8_t, nb::c_contig, nb::device::cpu>;

oaq::DensePanel dense_panel(const Runs& runs, const Panel& weights, const NamedRoute& route) {
    oaq::DensePanel panel{{}, {weights.data(), weights.data() + weights.size()}, route_of(route)};
    for (std::size_t i = 0; i < runs.shape(0); ++i) panel.runs.push_back({runs(i, 0), runs(i, 1), runs(i, 2)});
    return panel;
}

using Taps = nb::ndarray<const std::int32_t, nb::shape<-1, 2>, nb::c_contig, nb::device::cpu>;

oaq::DepthwiseLayer depthwise_layer(const oaq::Window& window, const std::vector<Taps>& taps,
                                    const std::vector<Panel>& weights, const std::vector<NamedRoute>& routes,
                                    oaq::LayerConstants constants) {
    if (weights.size() != taps.size() || routes.size() != taps.size())
        throw nb::value_error("taps, weights, routes: expected one of each per block of channels");
    oaq::DepthwiseLayer layer{window, {}, std::move(constants)};
    for (std::size_t i = 0; i < taps.size(); ++i) {
        const Panel& part = weights[i];
        layer.panels.push_back({{}, oaq::Vector<std::int8_t>(part.data(), part.data() + part.size()), route_of(routes[i])});
        for (std::size_t t = 0; t < taps[i].shape(0); ++t) layer.panels[i].taps.push_back({taps[i](t, 0), taps[i](t, 1)});
    }
    return layer;
}

nb::list table() {
    nb::list rows;
    for (int i = 0; i < oaq::kKernelSetCount; ++i) {
        const oaq::KernelSet& set = *oaq::kKernelSets[i];
        nb::list routes, tiles;
        for (const oaq::DenseRoute& route : set.dense) {
            if (route.kernel == nullptr) continue;
            routes.append(nb::make_tuple(route.route.name(), route.route.fold));
            tiles.append(route.pixels);
        }
        nb::dict row;
        row["isa"] = set.name;
        row["available"] = set.available();
        row["largest_code"] = set.largest_code;
        row["saturates"] = set.saturates;
        row["routes"] = nb::tuple(routes);
        row["pixels"] = nb::tuple(tiles);
        rows.append(row);
    }
    return rows;
}

std::vector<float*> pointers(const std::vector<Image<float>>& outputs) {
    std::vector<float*> result;
    for (const Image<float>& output : outputs) result.push_back(output.data());
    return result;
}

template <typename Weight>
void resize(oaq::Program& self, const oaq::Value& in, const oaq::Value& out, const Flat<std::int64_t>& rows,
            const Flat<Weight>& row_weights, const Flat<std::int64_t>& columns, const Flat<Weight>& column_weights,
            int q_max) {
    self.resize(in, out, copy(rows), copy(row_weights), copy(columns), copy(column_weights), q_max);
}

}  // namespace

void bind_program(nb::module_& module) {
    using oaq::Program;
    using oaq::Value;
    using oaq::Window;

    module.attr("SLACK") = oaq::kSlack;
    module.attr("PANEL") = oaq::kPanel;
    module.attr("STEP") = oaq::kStep;
    module.attr("PAIR") = oaq::kPair;
    module.attr("CHANNEL_BLOCK") = oaq::kChannelBlock;
    nb::list order;
    for (int place = 0; place < oaq::kChannelBlock; ++place)
        for (int channel = 0; channel < oaq::kChannelBlock; ++channel)
            if (oaq::depthwise_place(channel) == place) order.append(channel);
    module.attr("CHANNEL_ORDER") = nb::tuple(order);
    module.attr("LARGEST_BIAS") = oaq::kLargestBias;
    module.def("table", &table, "The sets of kernels, best first: dicts of what `KernelSet` in csrc/kernels.hpp declares.");

    nb::class_<Value>(module, "Value", "Codes of one image, NHWC in the arena, with a border (csrc/program.hpp).")
        .def("__init__", [](Value* self, std::int64_t offset, std::int64_t height, std::int64_t width,
                            std::int64_t channels, std::int64_t border_h, std::int64_t border_w, int fill) {
            new (self) Value{offset, height, width, channels, border_h, border_w, fill};
        }, "offset"_a, "height"_a, "width"_a, "channels"_a, "border_h"_a, "border_w"_a, "fill"_a)
        .def_ro("height", &Value::height)
        .def_ro("width", &Value::width)
        .def_ro("channels", &Value::channels);
    nb::class_<Window>(module, "Window", "Kernel, stride, padding and dilation of a sliding window.")
        .def("__init__", [](Window* self, std::int64_t kh, std::int64_t kw, std::int64_t sh, std::int64_t sw,
                            std::int64_t top, std::int64_t left, std::int64_t bottom, std::int64_t right,
                            std::int64_t dh, std::int64_t dw) {
            new (self) Window{kh, kw, sh, sw, top, left, bottom, right, dh, dw};
        });
    nb::class_<oaq::Places>(module, "Places", "Pixels that a layer writes: first and step of rows and columns.")
        .def("__init__", [](oaq::Places* self, std::int64_t first_h, std::int64_t first_w, std::int64_t step_h,
                            std::int64_t step_w) { new (self) oaq::Places{first_h, first_w, step_h, step_w}; });
    nb::class_<oaq::Quantization>(module, "Quantization", "scale, zero_point, q_max.")
        .def(nb::init<float, int, int>());
    nb::class_<oaq::MultiplierArrays>(module, "Multipliers", "Multipliers of one requantization (csrc/kernels.hpp).")
        .def_static("float32", &real_multipliers, "values"_a)
        .def_static("dyadic", &dyadic_multipliers, "multiplier"_a, "shift"_a)
        .def_static("fixed16", &fixed16_multipliers, "multiplier"_a, "shift"_a = nb::none());
    nb::class_<oaq::LayerConstants>(module, "LayerConstants", "Constants of a layer's outputs (csrc/program.hpp).")
        .def("__init__", [](oaq::LayerConstants* self, const Flat<std::int32_t>& start, const Flat<std::int32_t>& bias,
                            const oaq::MultiplierArrays& multipliers, int wrap_shift, int zero_point, int q_max,
                            int code_offset) {
            new (self) oaq::LayerConstants(
                constants(start, bias, multipliers, wrap_shift, zero_point, q_max, code_offset));
        }, "start"_a, "bias"_a, "multipliers"_a, "wrap_shift"_a, "zero_point"_a, "q_max"_a, "code_offset"_a);
    nb::class_<oaq::DenseGroup>(module, "DenseGroup", "Weights and constants of a dense layer's group (csrc/program.hpp).")
        .def("__init__", [](oaq::DenseGroup* self, const std::vector<std::tuple<Runs, Panel, NamedRoute>>& panels,
                            const oaq::LayerConstants& constants) {
            new (self) oaq::DenseGroup{{}, constants};
            for (const auto& [runs, weights, route] : panels) self->panels.push_back(dense_panel(runs, weights, route));
        }, "panels"_a, "constants"_a);

    nb::class_<Program>(module, "Program", "A compiled integer graph (csrc/program.hpp). Raises ValueError for parts that do not fit.")
        .def("__init__", [](Program* self, std::int64_t arena_bytes, int threads, const std::string& isa) {
            new (self) Program(arena_bytes, threads, oaq::kernels_named(isa));
        }, "arena_bytes"_a, "threads"_a, "isa"_a)
        .def_prop_ro("isa", [](const Program& self) { return self.kernels().name; })
        .def("quantize", &Program::quantize)
        .def("dense", [](Program& self, const Value& in, const Value& out, const Window& window,
                         std::vector<oaq::DenseGroup> groups, const oaq::Places& places, const Flat<std::uint8_t>& table) {
            self.dense(in, out, {window, std::move(groups), places, copy(table)});
        })
        .def("depthwise", [](Program& self, const Value& in, const Value& out, const Window& window,
                             const std::vector<Taps>& taps, const std::vector<Panel>& weights,
                             const std::vector<NamedRoute>& routes, const oaq::LayerConstants& constants,
                             const oaq::Places& places, const Flat<std::uint8_t>& table) {
            oaq::DepthwiseLayer layer = depthwise_layer(window, taps, weights, routes, constants);
            layer.places = places;
            layer.table = copy(table);
            self.depthwise(in, out, std::move(layer));
        })
        .def("dense_depthwise", [](Program& self, const Value& in, const Value& buffers, std::int64_t height, const Value& out,
                                   const Window& dense_window, std::vector<oaq::DenseGroup> groups,
                                   const Flat<std::uint8_t>& dense_table, const Window& window,
                                   const std::vector<Taps>& taps, const std::vector<Panel>& weights,
                                   const std::vector<NamedRoute>& routes, const oaq::LayerConstants& constants,
                                   const Flat<std::uint8_t>& table) {
            oaq::DepthwiseLayer layer = depthwise_layer(window, taps, weights, routes, constants);
            layer.table = copy(table);
            self.dense_depthwise(in, buffers, height, out, {dense_window, std::move(groups), {}, copy(dense_table)},
                                 std::move(layer));
        })
        .def("emulate", [](Program& self, const Value& in, const Value& out, const std::vector<std::int64_t>& shape,
                             const Window& w, std::int64_t groups, int bits, bool saturate, std::int64_t lanes,
                             std::int64_t block, int source_zero_point, const Flat<std::int8_t>& weight,
                             const oaq::LayerConstants& constants, const oaq::Places& places,
                             std::array<std::int64_t, 2> skip, const Flat<std::uint8_t>& table) {
            if (shape.size() != 4) throw nb::value_error("shape: expected that of the weights, [O, kh, kw, I]");
            if (static_cast<std::int64_t>(weight.size()) != shape[0] * shape[1] * shape[2] * shape[3])
                throw nb::value_error("weight: expected as many values as its shape says");
            const oaq::Geometry geometry{1, in.height, in.width, in.channels, shape[0], shape[1], shape[2], shape[3],
                                         w.stride_h, w.stride_w, w.padding_h, w.padding_w, w.padding_bottom, w.padding_right,
                                         w.dilation_h, w.dilation_w, groups};
            self.emulate(in, out, geometry, {bits, saturate, lanes, block}, source_zero_point, copy(weight), constants,
                         places, skip, copy(table));
        })
        .def("add", &Program::add)
        .def("multiply", &Program::multiply)
        .def("lookup", [](Program& self, const std::vector<std::pair<Value, Flat<std::uint8_t>>>& parts, const Value& out) {
            std::vector<oaq::LookupPart> copies;
            for (const auto& [value, table] : parts) copies.push_back({value, copy(table)});
            self.lookup(std::move(copies), out);
        })
        .def("max_pool", &Program::max_pool)
        .def("average_pool", &Program::average_pool)
        .def("resize", &resize<float>)
        .def("resize", &resize<std::int32_t>)
        .def("resize_nearest", [](Program& self, const Value& in, const Value& out, const Flat<std::int64_t>& rows,
                                  const Flat<std::int64_t>& columns) {
            self.resize_nearest(in, out, copy(rows), copy(columns));
        })
        .def("select", [](Program& self, const Value& in, const Value& out, const Flat<std::int32_t>& channels) {
            self.select(in, out, copy(channels));
        })
        .def("depth_to_space", &Program::depth_to_space)
        .def("flatten", &Program::flatten)
        .def("done", &Program::done)
        .def("join", &Program::join, "count"_a, "One step of the last `count` ones.")
        .def("dequantize", &Program::dequantize)
        .def("run", [](Program& self, const Image<const float>& input, const std::vector<Image<float>>& outputs) {
            const std::vector<float*> results = pointers(outputs);
            nb::gil_scoped_release release;
            self.run(input.data(), results);
        }, "input"_a.noconvert(), "outputs"_a.noconvert())
        .def("profile", [](Program& self, const Image<const float>& input, const std::vector<Image<float>>& outputs,
                           int repeats) {
            const std::vector<float*> results = pointers(outputs);
            nb::gil_scoped_release release;
            return self.profile(input.data(), results, repeats);
        }, "input"_a.noconvert(), "outputs"_a.noconvert(), "repeats"_a)
        .def("read", [](const Program& self, const Value& value, const Image<std::uint8_t>& codes) {
            nb::gil_scoped_release release;
            self.read(value, codes.data());
        }, "value"_a, "codes"_a.noconvert());
}
