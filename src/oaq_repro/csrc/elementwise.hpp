// Operators without products of codes, on rows of NHWC codes. Their arithmetic stands in integer/graph/nodes/: IEEE float32
// in the order written (compiled without fma contraction), rounding half to even.
#pragma once

#include <cstdint>

#include "kernels.hpp"

namespace oaq::elementwise {

// A row of `width` pixels from planes of float32, `plane` elements apart, to codes of `channels` per pixel; and back.
void quantize(const float* in, std::int64_t plane, std::uint8_t* out, std::int64_t width, std::int64_t channels,
              float scale, int zero_point, int q_max);
void dequantize(const std::uint8_t* in, std::int64_t width, std::int64_t channels, float* out, std::int64_t plane,
                float scale, int zero_point);

void add(const std::uint8_t* a, const std::uint8_t* b, std::uint8_t* out, std::int64_t count, const AddConstants& constants);
void multiply(const std::uint8_t* a, const std::uint8_t* b, std::uint8_t* out, std::int64_t pixels, std::int64_t count,
              const MultiplyConstants& constants);

bool all_finite(const float* values, std::int64_t count);

void lookup(const std::uint8_t* in, std::uint8_t* out, std::int64_t count, const std::uint8_t* table);

// Bytes of `in` at these places, for each of `width` pixels of `in_step` and `count` bytes.
void select(const std::uint8_t* in, std::int64_t in_step, std::uint8_t* out, std::int64_t width,
            const std::int32_t* places, std::int64_t count);

void widen(const std::uint8_t* in, std::int16_t* out, std::int64_t count);

// out = max(in, out).
void maximum(const std::uint8_t* in, std::uint8_t* out, std::int64_t count);
// out += the codes of `pixels` pixels, `step` bytes apart.
void accumulate(const std::uint8_t* in, std::int64_t step, std::int64_t pixels, std::int32_t* out, std::int64_t channels);

// a * (1 - t) + b * t: of codes to float32; of float32, rounded and clamped, to codes. With integers t counts in parts of
// kBlend, nothing is rounded between, and a half is rounded up.
constexpr std::int32_t kBlend = 1 << 11;
void blend(const std::uint8_t* a, const std::uint8_t* b, float t, float* out, std::int64_t count);
void blend(const float* a, const float* b, float t, std::uint8_t* out, std::int64_t count, int q_max);
void blend(const std::uint8_t* a, const std::uint8_t* b, std::int32_t t, std::int32_t* out, std::int64_t count);
void blend(const std::int32_t* a, const std::int32_t* b, std::int32_t t, std::uint8_t* out, std::int64_t count, int q_max);

}  // namespace oaq::elementwise
