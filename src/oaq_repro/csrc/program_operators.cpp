// Operators without products of weights, one step each.
#include <algorithm>
#include <cstring>
#include <utility>

#include "elementwise.hpp"
#include "program.hpp"
#include "requantize.hpp"

namespace oaq {

void Program::quantize(const Value& out, Quantization q) {
    check(out);
    step(&out, [this, out, q] {
        split(out.height, out.width * out.channels, [&](std::int64_t first, std::int64_t last) {
            for (std::int64_t y = first; y < last; ++y)
                elementwise::quantize(input_ + y * out.width, out.height * out.width, at(out, y), out.width, out.channels,
                                      q.scale, q.zero_point, q.q_max);
        });
    });
}

void Program::dequantize(const Value& in, Quantization q, std::vector<int> outputs) {
    check(in);
    step(nullptr, [this, in, q, outputs = std::move(outputs)] {
        for (const int output : outputs) {
            float* result = (*outputs_)[static_cast<std::size_t>(output)];
            split(in.height, in.width * in.channels, [&](std::int64_t first, std::int64_t last) {
                for (std::int64_t y = first; y < last; ++y)
                    elementwise::dequantize(at(in, y), in.width, in.channels, result + y * in.width, in.height * in.width,
                                            q.scale, q.zero_point);
            });
        }
    });
}

void Program::add(const Value& a, const Value& b, const Value& out, MultiplierArrays multipliers, int zero_a, int zero_b,
                  int zero_point, int q_max) {
    for (const Value& value : {a, b, out}) check(value);
    const bool real = multipliers.kind == Requantization::kFloat32;
    require(multipliers.size() == (real ? 3 : 2) && multipliers.shift.size() == (real ? 0 : 2), "multipliers of a sum");
    step(&out, [this, a, b, out, multipliers = std::move(multipliers), zero_a, zero_b, zero_point, q_max] {
        const AddConstants constants{multipliers.at(0), zero_a, zero_b, zero_point, q_max};
        split(out.height, out.width * out.channels / 2, [&](std::int64_t first, std::int64_t last) {
            for (std::int64_t y = first; y < last; ++y)
                kernels_.add(at(a, y), at(b, y), at(out, y), out.width * out.channels, constants);
        });
    });
}

void Program::multiply(const Value& a, const Value& b, const Value& out, MultiplierArrays multipliers, int zero_a, int zero_b,
                       int zero_point, int q_max) {
    for (const Value& value : {a, b, out}) check(value);
    const bool pixel = b.height == 1 && b.width == 1;
    require(a.height == out.height && a.width == out.width && a.channels == out.channels && b.channels == a.channels &&
                (pixel || (b.height == a.height && b.width == a.width)), "factors");
    require(multipliers.size() == 1 && multipliers.kind != Requantization::kFixed16, "multiplier of a product");
    step(&out, [this, a, b, out, pixel, multipliers = std::move(multipliers), zero_a, zero_b, zero_point, q_max] {
        const MultiplyConstants constants{multipliers.at(0), zero_a, zero_b, zero_point, q_max};
        split(out.height, out.width * out.channels / 2, [&](std::int64_t first, std::int64_t last) {
            for (std::int64_t y = first; y < last; ++y) {
                if (pixel)
                    kernels_.multiply(at(a, y), at(b), at(out, y), out.width, out.channels, constants);
                else
                    kernels_.multiply(at(a, y), at(b, y), at(out, y), 1, out.width * out.channels, constants);
            }
        });
    });
}

void Program::lookup(std::vector<LookupPart> parts, const Value& out) {
    check(out);
    std::int64_t channels = 0;
    for (const LookupPart& part : parts) {
        check(part.in);
        require(part.table.size() == 256, "table");
        require(part.in.height == out.height && part.in.width == out.width, "size of a part");
        channels += part.in.channels;
    }
    require(channels == out.channels, "parts");
    step(&out, [this, out, parts = std::move(parts)] {
        split(out.height, out.width * out.channels, [&](std::int64_t first, std::int64_t last) {
            for (std::int64_t y = first; y < last; ++y) {
                std::uint8_t* result = at(out, y);
                for (const LookupPart& part : parts) {
                    const std::int64_t codes = part.in.channels;
                    const std::int64_t count = parts.size() == 1 ? out.width : 1;  // pixels at once
                    for (std::int64_t x = 0; x < out.width; x += count)
                        kernels_.lookup(at(part.in, y, x), result + x * out.channels, count * codes, part.table.data());
                    result += codes;
                }
            }
        });
    });
}

void Program::max_pool(const Value& in, const Value& out, Window w) {
    check(in);
    check(out);
    const std::int64_t line = in.width * in.channels;
    step(&out, [this, in, out, w, line,
                lines = std::vector<std::uint8_t>(static_cast<std::size_t>(out.height * line))]() mutable {
        split(out.height, line * w.kernel_h / 8, [&](std::int64_t first, std::int64_t last) {
            for (std::int64_t y = first; y < last; ++y) {
                // The maximum of the window's rows, then of its columns. Zeros never win over a code.
                std::uint8_t* tallest = lines.data() + y * line;
                std::memset(tallest, 0, static_cast<std::size_t>(line));
                for (std::int64_t i = 0; i < w.kernel_h; ++i) {
                    const std::int64_t row = y * w.stride_h - w.padding_h + i * w.dilation_h;
                    if (row >= 0 && row < in.height) elementwise::maximum(at(in, row), tallest, line);
                }
                std::memset(at(out, y), 0, static_cast<std::size_t>(out.width * out.channels));
                for (std::int64_t x = 0; x < out.width; ++x) {
                    for (std::int64_t j = 0; j < w.kernel_w; ++j) {
                        const std::int64_t column = x * w.stride_w - w.padding_w + j * w.dilation_w;
                        if (column >= 0 && column < in.width)
                            elementwise::maximum(tallest + column * in.channels, at(out, y, x), out.channels);
                    }
                }
            }
        });
    });
}

void Program::average_pool(const Value& in, const Value& out, Window w, int source_zero_point,
                           MultiplierArrays multipliers, int zero_point, int q_max) {
    check(in);
    check(out);
    require(w.padding_h <= in.border_h && w.padding_w <= in.border_w, "border of an average");
    require((out.height - 1) * w.stride_h - w.padding_h + w.kernel_h <= in.height + in.border_h &&
                (out.width - 1) * w.stride_w - w.padding_w + w.kernel_w <= in.width + in.border_w, "windows of an average");
    require(static_cast<std::int64_t>(multipliers.size()) == out.height * out.width &&
                multipliers.kind != Requantization::kFixed16, "multipliers of an average");
    const auto start = static_cast<std::int32_t>(-w.kernel_h * w.kernel_w * source_zero_point);
    step(&out, [this, in, out, w, start, multipliers = std::move(multipliers), zero_point, q_max,
                sums = std::vector<std::int32_t>(static_cast<std::size_t>(out.height * out.channels))]() mutable {
        split(out.height, out.width * out.channels * w.kernel_h * w.kernel_w / 8, [&](std::int64_t first, std::int64_t last) {
            for (std::int64_t y = first; y < last; ++y) {
                std::int32_t* acc = sums.data() + y * out.channels;
                for (std::int64_t x = 0; x < out.width; ++x) {
                    std::fill(acc, acc + out.channels, start);
                    for (std::int64_t i = 0; i < w.kernel_h; ++i)
                        elementwise::accumulate(at(in, y * w.stride_h - w.padding_h + i, x * w.stride_w - w.padding_w),
                                                in.channels, w.kernel_w, acc, out.channels);
                    std::uint8_t* result = at(out, y, x);
                    const Multipliers own = multipliers.at(y * out.width + x);
                    for (std::int64_t c = 0; c < out.channels; ++c) result[c] = to_code(acc[c], own, 0, zero_point, q_max);
                }
            }
        });
    });
}

template <typename Weight>
void Program::resize(const Value& in, const Value& out, std::vector<std::int64_t> rows, std::vector<Weight> row_weights,
                     std::vector<std::int64_t> columns, std::vector<Weight> column_weights, int q_max) {
    check(in);
    check(out);
    require(static_cast<std::int64_t>(row_weights.size()) == out.height && rows.size() == 2 * row_weights.size() &&
                static_cast<std::int64_t>(column_weights.size()) == out.width &&
                columns.size() == 2 * column_weights.size(), "taps of a resize");
    for (const std::int64_t row : rows) require(row >= 0 && row < in.height, "rows of a resize");
    for (const std::int64_t column : columns) require(column >= 0 && column < in.width, "columns of a resize");
    const auto line = static_cast<std::size_t>(in.width * in.channels);
    step(&out, [this, in, out, rows = std::move(rows), row_weights = std::move(row_weights), columns = std::move(columns),
                column_weights = std::move(column_weights), q_max, line,
                lines = std::vector<Weight>(static_cast<std::size_t>(out.height) * line)]() mutable {
        split(out.height, out.width * out.channels * 2, [&](std::int64_t first, std::int64_t last) {
            for (std::int64_t y = first; y < last; ++y) {
                const auto i = static_cast<std::size_t>(y);
                Weight* between = lines.data() + i * line;
                elementwise::blend(at(in, rows[2 * i]), at(in, rows[2 * i + 1]), row_weights[i], between,
                                   in.width * in.channels);
                for (std::int64_t x = 0; x < out.width; ++x) {
                    const auto j = static_cast<std::size_t>(x);
                    elementwise::blend(between + columns[2 * j] * in.channels, between + columns[2 * j + 1] * in.channels,
                                       column_weights[j], at(out, y, x), out.channels, q_max);
                }
            }
        });
    });
}

template void Program::resize(const Value&, const Value&, std::vector<std::int64_t>, std::vector<float>,
                              std::vector<std::int64_t>, std::vector<float>, int);
template void Program::resize(const Value&, const Value&, std::vector<std::int64_t>, std::vector<std::int32_t>,
                              std::vector<std::int64_t>, std::vector<std::int32_t>, int);

void Program::resize_nearest(const Value& in, const Value& out, std::vector<std::int64_t> rows,
                             std::vector<std::int64_t> columns) {
    check(in);
    check(out);
    require(static_cast<std::int64_t>(rows.size()) == out.height && static_cast<std::int64_t>(columns.size()) == out.width &&
                in.channels == out.channels, "pixels of a resize");
    for (const std::int64_t row : rows) require(row >= 0 && row < in.height, "rows of a resize");
    for (const std::int64_t column : columns) require(column >= 0 && column < in.width, "columns of a resize");
    step(&out, [this, in, out, rows = std::move(rows), columns = std::move(columns)] {
        split(out.height, out.width * out.channels / 4, [&](std::int64_t first, std::int64_t last) {
            for (std::int64_t y = first; y < last; ++y) {
                const std::uint8_t* row = at(in, rows[static_cast<std::size_t>(y)]);
                for (std::int64_t x = 0; x < out.width; ++x)
                    std::memcpy(at(out, y, x), row + columns[static_cast<std::size_t>(x)] * in.channels,
                                static_cast<std::size_t>(in.channels));
            }
        });
    });
}

void Program::select(const Value& in, const Value& out, std::vector<std::int32_t> channels) {
    check(in);
    check(out);
    require(in.height == out.height && in.width == out.width &&
                static_cast<std::int64_t>(channels.size()) == out.channels, "channels of a selection");
    for (const std::int32_t channel : channels) require(channel >= 0 && channel < in.channels, "a selected channel");
    bool slice = true;
    for (std::size_t i = 1; i < channels.size(); ++i) slice = slice && channels[i] == channels[0] + static_cast<int>(i);
    step(&out, [this, in, out, slice, channels = std::move(channels)] {
        split(out.height, out.width * out.channels / (slice ? 8 : 1), [&](std::int64_t first, std::int64_t last) {
            for (std::int64_t y = first; y < last; ++y) {
                if (!slice) {
                    elementwise::select(at(in, y), in.channels, at(out, y), out.width, channels.data(), out.channels);
                    continue;
                }
                for (std::int64_t x = 0; x < out.width; ++x)
                    std::memcpy(at(out, y, x), at(in, y, x) + channels[0], static_cast<std::size_t>(out.channels));
            }
        });
    });
}

void Program::depth_to_space(const Value& in, const Value& out, std::int64_t block) {
    check(in);
    check(out);
    require(block > 0 && out.height == in.height * block && out.width == in.width * block &&
                in.channels == out.channels * block * block, "sizes of depth to space");
    step(&out, [this, in, out, block] {
        split(out.height, out.width * out.channels, [&](std::int64_t first, std::int64_t last) {
            for (std::int64_t y = first; y < last; ++y) {
                std::uint8_t* result = at(out, y);
                for (std::int64_t x = 0; x < out.width; ++x, result += out.channels) {
                    const std::uint8_t* codes = at(in, y / block, x / block) + y % block * block + x % block;
                    for (std::int64_t c = 0; c < out.channels; ++c) result[c] = codes[c * block * block];
                }
            }
        });
    });
}

void Program::flatten(const Value& in, const Value& out) {
    check(in);
    check(out);
    require(out.height == 1 && out.width == 1 && out.channels == in.height * in.width * in.channels, "flat value");
    step(&out, [this, in, out] {
        std::uint8_t* result = at(out);
        for (std::int64_t c = 0; c < in.channels; ++c)
            for (std::int64_t y = 0; y < in.height; ++y)
                for (std::int64_t x = 0; x < in.width; ++x) *result++ = at(in, y, x)[c];
    });
}

}  // namespace oaq
