// The epilogue of one value, shared by scalar code. Compiled without fma contraction.
#pragma once

#include <cmath>

#include "kernels.hpp"

namespace oaq {

// clamp(rint(float32(acc) * multiplier) + zero_point, 0, q_max); rint in the default rounding mode: half to even.
inline std::uint8_t to_code(std::int32_t acc, float multiplier, int zero_point, int q_max) {
    const float highest = static_cast<float>(q_max - zero_point), lowest = static_cast<float>(-zero_point);
    const float value = std::nearbyintf(static_cast<float>(acc) * multiplier);
    const float clamped = value > highest ? highest : value < lowest ? lowest : value;
    return static_cast<std::uint8_t>(static_cast<int>(clamped) + zero_point);
}

// Of sums that may be kept to fewer bits, with their bias.
inline std::uint8_t requantize(std::int32_t acc, const OutputConstants& constants, int channel) {
    const std::uint32_t kept = static_cast<std::uint32_t>(acc) << constants.wrap_shift;
    const std::int32_t value = static_cast<std::int32_t>(kept) >> constants.wrap_shift;  // arithmetic
    const std::uint32_t sum = static_cast<std::uint32_t>(value) + static_cast<std::uint32_t>(constants.bias[channel]);
    return to_code(static_cast<std::int32_t>(sum), constants.multiplier[channel], constants.zero_point, constants.q_max);
}

}  // namespace oaq
