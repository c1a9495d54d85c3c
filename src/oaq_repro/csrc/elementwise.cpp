#include "elementwise.hpp"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "clones.hpp"
#include "requantize.hpp"

namespace oaq::elementwise {
namespace {

// Codes of a quantization: clamp(rint(value) + zero_point, 0, q_max), written so that it vectorizes: the clamp comes
// first, at whole numbers.
struct Codes {
    float lowest, highest;
    int zero_point;

    Codes(int zero, int q_max)
        : lowest(static_cast<float>(-zero)), highest(static_cast<float>(q_max - zero)), zero_point(zero) {}

    std::int32_t whole(float value) const {
        value = value < highest ? value : highest;
        value = value > lowest ? value : lowest;
        return static_cast<std::int32_t>(std::nearbyintf(value)) + zero_point;
    }
    std::uint8_t operator()(float value) const { return static_cast<std::uint8_t>(whole(value)); }
};

}  // namespace

OAQ_CLONES void quantize(const float* in, std::int64_t plane, std::uint8_t* out, std::int64_t width,
                         std::int64_t channels, float scale, int zero_point, int q_max) {
    const Codes codes(zero_point, q_max);
    const auto code = [=](float value) { return codes.whole(value / scale); };
    if (channels != 3) {
        for (std::int64_t c = 0; c < channels; ++c)
            for (std::int64_t x = 0; x < width; ++x)
                out[x * channels + c] = static_cast<std::uint8_t>(code(in[c * plane + x]));
        return;
    }
    // Images of three channels, a pixel at once. Of the four bytes written the last is the next pixel's, which follows.
    constexpr std::int64_t kPart = 64;
    std::int32_t pixels[kPart];
    for (std::int64_t first = 0; first < width; first += kPart) {
        const std::int64_t count = std::min(kPart, width - first);
        const float *red = in + first, *green = red + plane, *blue = green + plane;
        for (std::int64_t x = 0; x < count; ++x) pixels[x] = code(red[x]) | code(green[x]) << 8 | code(blue[x]) << 16;
        std::uint8_t* result = out + 3 * first;
        for (std::int64_t x = 0; x + 1 < count; ++x) std::memcpy(result + 3 * x, pixels + x, 4);
        std::memcpy(result + 3 * (count - 1), pixels + count - 1, 3);
    }
}

OAQ_CLONES void dequantize(const std::uint8_t* in, std::int64_t width, std::int64_t channels, float* out,
                           std::int64_t plane, float scale, int zero_point) {
    const float zero = static_cast<float>(zero_point);
    for (std::int64_t c = 0; c < channels; ++c)
        for (std::int64_t x = 0; x < width; ++x)
            out[c * plane + x] = (static_cast<float>(in[x * channels + c]) - zero) * scale;
}

namespace {

OAQ_CLONES void add_float32(const std::uint8_t* a, const std::uint8_t* b, std::uint8_t* out, std::int64_t count,
                            const AddConstants& k) {
    const float *const real = k.multipliers.real, scale_a = real[0], scale_b = real[1], scale = real[2];
    const int zero_a = k.zero_a, zero_b = k.zero_b;  // `out` may not alias them
    const Codes code(k.zero_point, k.q_max);
    for (std::int64_t i = 0; i < count; ++i) {
        const float sum = static_cast<float>(a[i] - zero_a) * scale_a + static_cast<float>(b[i] - zero_b) * scale_b;
        out[i] = code(sum / scale);
    }
}

OAQ_CLONES void multiply_float32(const std::uint8_t* a, const std::uint8_t* b, std::uint8_t* out, std::int64_t pixels,
                                 std::int64_t count, const MultiplyConstants& k) {
    const float multiplier = k.multipliers.real[0];
    const int zero_a = k.zero_a, zero_b = k.zero_b;
    const Codes code(k.zero_point, k.q_max);
    for (std::int64_t pixel = 0; pixel < pixels; ++pixel, a += count, out += count) {
        for (std::int64_t i = 0; i < count; ++i) {
            const std::int32_t product = (a[i] - zero_a) * (b[i] - zero_b);
            out[i] = code(static_cast<float>(product) * multiplier);
        }
    }
}

// Int: what holds the sums of products.
template <typename Int>
inline void add_integers(const std::uint8_t* a, const std::uint8_t* b, std::uint8_t* out, std::int64_t count,
                         const AddConstants& k) {
    const Int by_a = k.multipliers.integer[0], by_b = k.multipliers.integer[1], shift = k.multipliers.shift[0];
    const Int zero_a = k.zero_a, zero_b = k.zero_b, zero_point = k.zero_point, q_max = k.q_max, half = Int{1} << (shift - 1);
    for (std::int64_t i = 0; i < count; ++i) {
        const Int value = ((a[i] - zero_a) * by_a + (b[i] - zero_b) * by_b + half) >> shift;
        out[i] = static_cast<std::uint8_t>(std::clamp<Int>(value + zero_point, 0, q_max));
    }
}

OAQ_CLONES void add_fixed16(const std::uint8_t* a, const std::uint8_t* b, std::uint8_t* out, std::int64_t count,
                            const AddConstants& k) {
    add_integers<std::int32_t>(a, b, out, count, k);
}

}  // namespace

void add(const std::uint8_t* a, const std::uint8_t* b, std::uint8_t* out, std::int64_t count, const AddConstants& k) {
    switch (k.multipliers.kind) {
        case Requantization::kFloat32: return add_float32(a, b, out, count, k);
        case Requantization::kDyadic: return add_integers<std::int64_t>(a, b, out, count, k);
        case Requantization::kFixed16: return add_fixed16(a, b, out, count, k);
    }
}

void multiply(const std::uint8_t* a, const std::uint8_t* b, std::uint8_t* out, std::int64_t pixels, std::int64_t count,
              const MultiplyConstants& k) {
    if (k.multipliers.kind == Requantization::kFloat32) return multiply_float32(a, b, out, pixels, count, k);
    for (std::int64_t pixel = 0; pixel < pixels; ++pixel, a += count, out += count)
        for (std::int64_t i = 0; i < count; ++i)
            out[i] = to_code((a[i] - k.zero_a) * (b[i] - k.zero_b), k.multipliers, 0, k.zero_point, k.q_max);
}

OAQ_CLONES bool all_finite(const float* values, std::int64_t count) {
    std::int32_t other = 0;  // infinity and NaN are what differs from itself when subtracted
    for (std::int64_t i = 0; i < count; ++i) other |= values[i] - values[i] != 0.0f;
    return other == 0;
}

void lookup(const std::uint8_t* in, std::uint8_t* out, std::int64_t count, const std::uint8_t* table) {
    for (std::int64_t i = 0; i < count; ++i) out[i] = table[in[i]];
}

void select(const std::uint8_t* in, std::int64_t in_step, std::uint8_t* out, std::int64_t width,
            const std::int32_t* places, std::int64_t count) {
    for (std::int64_t x = 0; x < width; ++x)
        for (std::int64_t c = 0; c < count; ++c) out[x * count + c] = in[x * in_step + places[c]];
}

OAQ_CLONES void widen(const std::uint8_t* in, std::int16_t* out, std::int64_t count) {
    for (std::int64_t i = 0; i < count; ++i) out[i] = in[i];
}

OAQ_CLONES void maximum(const std::uint8_t* in, std::uint8_t* out, std::int64_t count) {
    for (std::int64_t i = 0; i < count; ++i) out[i] = std::max(in[i], out[i]);
}

OAQ_CLONES void accumulate(const std::uint8_t* in, std::int64_t step, std::int64_t pixels, std::int32_t* out,
                           std::int64_t channels) {
    constexpr std::int64_t kBlock = 32, kMost = 257;  // channels; pixels that 16 unsigned bits hold
    for (std::int64_t first = 0; first < pixels; first += kMost) {
        const std::int64_t count = std::min(kMost, pixels - first);
        std::int64_t c = 0;
        for (; c + kBlock <= channels; c += kBlock) {
            std::uint16_t sums[kBlock] = {};
            const std::uint8_t* codes = in + first * step + c;
            for (std::int64_t p = 0; p < count; ++p, codes += step)
                for (std::int64_t i = 0; i < kBlock; ++i) sums[i] = static_cast<std::uint16_t>(sums[i] + codes[i]);
            for (std::int64_t i = 0; i < kBlock; ++i) out[c + i] += sums[i];
        }
        for (std::int64_t p = first; p < first + count; ++p)
            for (std::int64_t i = c; i < channels; ++i) out[i] += in[p * step + i];
    }
}

OAQ_CLONES void blend(const std::uint8_t* a, const std::uint8_t* b, float t, float* out, std::int64_t count) {
    const float rest = 1.0f - t;
    for (std::int64_t i = 0; i < count; ++i) out[i] = static_cast<float>(a[i]) * rest + static_cast<float>(b[i]) * t;
}

OAQ_CLONES void blend(const float* a, const float* b, float t, std::uint8_t* out, std::int64_t count, int q_max) {
    const float rest = 1.0f - t;
    const Codes code(0, q_max);
    for (std::int64_t i = 0; i < count; ++i) out[i] = code(a[i] * rest + b[i] * t);
}

OAQ_CLONES void blend(const std::uint8_t* a, const std::uint8_t* b, std::int32_t t, std::int32_t* out, std::int64_t count) {
    const std::int32_t rest = kBlend - t;
    for (std::int64_t i = 0; i < count; ++i) out[i] = a[i] * rest + b[i] * t;
}

OAQ_CLONES void blend(const std::int32_t* a, const std::int32_t* b, std::int32_t t, std::uint8_t* out, std::int64_t count,
                      int) {
    const std::int32_t rest = kBlend - t, half = kBlend * kBlend / 2;
    for (std::int64_t i = 0; i < count; ++i)
        out[i] = static_cast<std::uint8_t>((a[i] * rest + b[i] * t + half) / (kBlend * kBlend));
}

}  // namespace oaq::elementwise
