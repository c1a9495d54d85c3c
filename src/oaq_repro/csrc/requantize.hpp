// The epilogue of one value, shared by scalar code. Compiled without fma contraction.
#pragma once

#include <algorithm>
#include <cmath>
#include <type_traits>

#include "kernels.hpp"

namespace oaq {

template <Requantization K>
using Kind = std::integral_constant<Requantization, K>;

// f(Kind<kind>()): what is compiled for every kind is chosen once, where a kernel begins.
template <typename F>
inline void by_kind(Requantization kind, const F& f) {
    switch (kind) {
        case Requantization::kFloat32: return f(Kind<Requantization::kFloat32>());
        case Requantization::kDyadic: return f(Kind<Requantization::kDyadic>());
        case Requantization::kFixed16: return f(Kind<Requantization::kFixed16>());
    }
}

// clamp(value + zero_point, 0, q_max).
inline std::uint8_t clamped(std::int64_t value, int zero_point, int q_max) {
    return static_cast<std::uint8_t>(std::clamp<std::int64_t>(value + zero_point, 0, q_max));
}

// clamp(rint(value) + zero_point, 0, q_max); rint in the default rounding mode: half to even.
inline std::uint8_t rounded(float value, int zero_point, int q_max) {
    const float highest = static_cast<float>(q_max - zero_point), lowest = static_cast<float>(-zero_point);
    const float whole = std::nearbyintf(value);
    const float inside = whole > highest ? highest : whole < lowest ? lowest : whole;
    return static_cast<std::uint8_t>(static_cast<int>(inside) + zero_point);
}

// (value + 2^(shift - 1)) >> shift: half up.
inline std::int64_t shifted(std::int64_t value, int shift) { return (value + (std::int64_t{1} << (shift - 1))) >> shift; }

// Of a sum with its bias, by the multiplier at `i`.
inline std::uint8_t to_code(std::int32_t y, const Multipliers& multipliers, std::int64_t i, int zero_point, int q_max) {
    switch (multipliers.kind) {
        case Requantization::kDyadic:
            return clamped(shifted(std::int64_t{y} * multipliers.integer[i], multipliers.shift[i]), zero_point, q_max);
        case Requantization::kFixed16:
            return clamped(shifted(std::clamp(y, -32768, 32767) * multipliers.integer[i], 15), zero_point, q_max);
        default: return rounded(static_cast<float>(y) * multipliers.real[i], zero_point, q_max);
    }
}

// Of sums that may be kept to fewer bits, with their bias.
inline std::uint8_t requantize(std::int32_t acc, const OutputConstants& constants, int channel) {
    const std::uint32_t kept = static_cast<std::uint32_t>(acc) << constants.wrap_shift;
    const std::int32_t value = static_cast<std::int32_t>(kept) >> constants.wrap_shift;  // arithmetic
    const std::uint32_t y = static_cast<std::uint32_t>(value) + static_cast<std::uint32_t>(constants.bias[channel]);
    return to_code(static_cast<std::int32_t>(y), constants.multipliers, channel, constants.zero_point, constants.q_max);
}

}  // namespace oaq
