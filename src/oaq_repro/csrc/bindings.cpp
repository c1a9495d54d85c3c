// Python module oaq_repro._kernels.
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/array.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/pair.h>
#include <nanobind/stl/vector.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <cstdint>
#include <memory>
#include <optional>
#include <utility>
#include <vector>

#include "elementwise.hpp"
#include "emulate.hpp"
#include "kernels.hpp"
#include "search.hpp"

namespace nb = nanobind;
using namespace nb::literals;

namespace {

using Pair = std::pair<std::int64_t, std::int64_t>;
using Sides = std::array<std::int64_t, 4>;  // top, left, bottom, right
template <typename T>
using Input = nb::ndarray<const T, nb::ndim<4>, nb::c_contig, nb::device::cpu>;

// A NumPy array that owns its memory.
template <typename T>
nb::object to_numpy(std::unique_ptr<T[]> data, std::initializer_list<std::size_t> shape) {
    T* const raw = data.get();
    nb::capsule owner(raw, [](void* pointer) noexcept { delete[] static_cast<T*>(pointer); });
    data.release();
    return nb::cast(nb::ndarray<nb::numpy, T, nb::ndim<4>>(raw, shape, owner));
}

nb::tuple emulate(const Input<std::uint8_t>& x, const Input<std::int8_t>& weight, int zero_point, Pair stride, Sides padding,
                 Pair dilation, std::int64_t groups, int bits, bool saturate, std::int64_t lanes,
                 std::optional<std::int64_t> block) {
    if (block && *block < 1) throw nb::value_error("block: expected at least 1, or None");
    const auto size = [](const auto& array, std::size_t axis) { return static_cast<std::int64_t>(array.shape(axis)); };
    const oaq::Geometry geometry{size(x, 0),      size(x, 1),      size(x, 2),      size(x, 3),
                                 size(weight, 0), size(weight, 1), size(weight, 2), size(weight, 3),
                                 stride.first,    stride.second,   padding[0],      padding[1],
                                 padding[2],      padding[3],      dilation.first,  dilation.second,
                                 groups};
    const oaq::Policy policy{bits, saturate, lanes, block.value_or(0)};
    oaq::validate(geometry, zero_point, policy);
    const auto n = static_cast<std::size_t>(geometry.images), o = static_cast<std::size_t>(geometry.outputs);
    const auto h = static_cast<std::size_t>(geometry.output_height()), w = static_cast<std::size_t>(geometry.output_width());
    std::unique_ptr<std::int32_t[]> acc(new std::int32_t[n * h * w * o]);
    std::unique_ptr<std::uint8_t[]> events(new std::uint8_t[n * h * w * o]);
    oaq::Range range;
    {
        nb::gil_scoped_release release;
        range = oaq::emulate(x.data(), weight.data(), geometry, zero_point, policy, acc.get(), events.get());
    }
    return nb::make_tuple(to_numpy(std::move(acc), {n, h, w, o}), to_numpy(std::move(events), {n, h, w, o}), range.lowest,
                          range.highest);
}

// The same of a vector, in one dimension.
template <typename T>
nb::object to_numpy(std::vector<T> values) {
    auto* const kept = new std::vector<T>(std::move(values));
    nb::capsule owner(kept, [](void* pointer) noexcept { delete static_cast<std::vector<T>*>(pointer); });
    return nb::cast(nb::ndarray<nb::numpy, T, nb::ndim<1>>(kept->data(), {kept->size()}, owner));
}

nb::tuple bound_sums(const Input<std::int8_t>& weights, const std::vector<std::int32_t>& run_steps, int lowest, int highest,
                     const std::vector<int>& folds) {
    std::size_t steps = 0;
    for (const std::int32_t run : run_steps) steps += run > 0 ? static_cast<std::size_t>(run) : weights.shape(1) + 1;
    if (weights.shape(2) != oaq::kPanel || weights.shape(3) != oaq::kStep || steps != weights.shape(1) || steps == 0)
        throw nb::value_error("weights: expected [panels, steps of all runs, PANEL, STEP]");
    if (lowest > 0 || highest < 0 || highest - lowest > 255) throw nb::value_error("codes: expected a byte's range with 0");
    for (const int fold : folds)
        if (fold < 1) throw nb::value_error("folds: expected at least 1");
    oaq::SumBounds found = oaq::bound_sums(weights.data(), static_cast<std::int64_t>(weights.shape(0)), run_steps, lowest,
                                           highest, folds);
    return nb::make_tuple(to_numpy(std::move(found.longest)), to_numpy(std::move(found.apart)),
                          to_numpy(std::move(found.positive)), to_numpy(std::move(found.negative)));
}

using Reach = nb::ndarray<const float, nb::ndim<2>, nb::c_contig, nb::device::cpu>;

using Conflicts = nb::ndarray<const std::uint64_t, nb::ndim<3>, nb::c_contig, nb::device::cpu>;

nb::object exchange(const Conflicts& conflicts, const std::vector<double>& costs, const std::vector<std::int64_t>& order) {
    std::vector<std::int64_t> sorted = order;
    std::sort(sorted.begin(), sorted.end());
    for (std::size_t i = 0; i < sorted.size(); ++i)
        if (sorted[i] != static_cast<std::int64_t>(i)) throw nb::value_error("order: expected every channel once");
    if (conflicts.shape(0) != order.size() || conflicts.shape(1) != order.size() || conflicts.shape(2) != costs.size())
        throw nb::value_error("conflicts: expected [channels, channels, words], with a cost for every word");
    return to_numpy(oaq::exchange(conflicts.data(), costs, order));
}

nb::object deal(const Reach& reach, const std::vector<std::int64_t>& ranks, std::int64_t block) {
    if (ranks.size() != reach.shape(0) || ranks.empty() || reach.shape(1) == 0)
        throw nb::value_error("ranks: expected one per channel, and a sum at least");
    if (block < 1 || *std::min_element(ranks.begin(), ranks.end()) < 0) throw nb::value_error("block, ranks: too small");
    return to_numpy(oaq::deal(reach.data(), static_cast<std::int64_t>(reach.shape(0)),
                              static_cast<std::int64_t>(reach.shape(1)), ranks, block));
}

// Additions that wait for one another take a cycle each: their rate is the core's clock. They add a register, as some
// cores add constants without taking time.
double clock_hz() {
    constexpr int kRounds = 20, kSteps = 200000;
    double best = 0.0;
    for (int round = 0; round < kRounds; ++round) {
        const auto start = std::chrono::steady_clock::now();
        std::uint64_t x = 0, y = 1;
        for (int i = 0; i < kSteps; ++i) {
            for (int j = 0; j < 10; ++j) {
                x += y;
#if defined(__GNUC__)
                asm volatile("" : "+r"(x), "+r"(y));  // one by one
#endif
            }
        }
        const std::chrono::duration<double> seconds = std::chrono::steady_clock::now() - start;
        best = std::max(best, 10.0 * kSteps / seconds.count());
    }
    return best;
}

}  // namespace

void bind_program(nb::module_& module);

NB_MODULE(_kernels, module) {
    module.doc() = "Integer kernels with narrow accumulators.";
    module.def("emulate", &emulate, "x"_a.noconvert(), "weight"_a.noconvert(), "zero_point"_a, nb::kw_only(), "stride"_a = Pair(1, 1),
               "padding"_a = Sides{0, 0, 0, 0}, "dilation"_a = Pair(1, 1), "groups"_a = 1, "bits"_a = 16, "saturate"_a = false,
               "lanes"_a = 1, "block"_a = nb::none(),
               "Convolve uint8 codes [N, H, W, C] with int8 weights [O, kh, kw, C / groups] (both C-contiguous).\n\n"
               "padding: top, left, bottom, right.\n"
               "Returns (acc int32 [N, H', W', O] after the accumulator's policy and with -zero_point * sum(weight)\n"
               "included, events uint8 of the same shape, lowest, highest partial sum, zero included).\n"
               "Raises ValueError for sizes that do not fit, TypeError for other types, ranks or layouts.");
    module.def("all_finite", [](const nb::ndarray<const float, nb::c_contig, nb::device::cpu>& values) {
        nb::gil_scoped_release release;
        return oaq::elementwise::all_finite(values.data(), static_cast<std::int64_t>(values.size()));
    }, "values"_a.noconvert(), "Whether no value of a float32 array is NaN or infinity.");
    module.def("bound_sums", &bound_sums, "weights"_a.noconvert(), "run_steps"_a, "lowest"_a, "highest"_a, "folds"_a,
               "What sums of packed weights int8 [P, S, PANEL, STEP] can reach (csrc/search.hpp), flat: longest folds int64\n"
               "[P * PANEL], steps with a half sum that leaves 16 bits uint8 [P * S * PANEL], sums of the positive and of\n"
               "the negative weights int64 [P * PANEL].");
    module.def("exchange", &exchange, "conflicts"_a.noconvert(), "costs"_a, "order"_a,
               "Channels exchanged so that fewer pairs have conflicts, bits uint64 [I, I, words] (csrc/search.hpp).");
    module.def("deal", &deal, "reach"_a.noconvert(), "ranks"_a, "block"_a,
               "Channels int64 [I] dealt so that their sums, float32 [I, sums] each, are even (csrc/search.hpp).");
    module.def("clock_hz", &clock_hz, "The core's clock in Hz, measured in about 20 ms.");
    bind_program(module);
}
