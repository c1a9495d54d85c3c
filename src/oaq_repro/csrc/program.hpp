// A compiled integer graph: operators over values that lie in one arena. Shapes, offsets, packing and routes are decided
// before (in Python: integer/engine/); nothing is allocated while it runs.
#pragma once

#include <array>
#include <cstdint>
#include <functional>
#include <memory>
#include <new>
#include <stdexcept>
#include <string>
#include <vector>

#include "emulate.hpp"
#include "kernels.hpp"
#include "pool.hpp"

namespace oaq {

inline void require(bool holds, const char* what) {
    if (!holds) throw std::invalid_argument(std::string("program: ") + what);
}

// Vectors for kernels: loads of 32 bytes never cross a cache line.
template <typename T>
struct Aligned {
    using value_type = T;
    Aligned() = default;
    template <typename U>
    Aligned(const Aligned<U>&) {}
    T* allocate(std::size_t n) { return static_cast<T*>(::operator new(n * sizeof(T), std::align_val_t{64})); }
    void deallocate(T* p, std::size_t) { ::operator delete(p, std::align_val_t{64}); }
    bool operator==(const Aligned&) const { return true; }
    bool operator!=(const Aligned&) const { return false; }
};
template <typename T>
using Vector = std::vector<T, Aligned<T>>;

// A value of codes: NHWC of one image, with a border of `fill` on all sides that convolutions read as padding.
struct Value {
    std::int64_t offset;  // in the arena, of the first code of the first pixel inside the border
    std::int64_t height, width, channels;
    std::int64_t border_h, border_w;
    int fill;

    std::int64_t row() const { return (width + 2 * border_w) * channels; }
};

// Multipliers of a step, of one kind.
struct MultiplierArrays {
    Requantization kind;
    Vector<float> real = {};
    Vector<std::int32_t> integer = {}, shift = {};

    std::size_t size() const { return kind == Requantization::kFloat32 ? real.size() : integer.size(); }
    Multipliers at(std::int64_t i) const {
        const auto from = [i](const auto& values) { return values.empty() ? nullptr : values.data() + i; };
        return {kind, from(real), from(integer), from(shift)};
    }
};

struct Quantization {
    float scale;
    int zero_point, q_max;
};

// padding_h, padding_w: rows above and columns left of the image; bottom and right have their own.
struct Window {
    std::int64_t kernel_h, kernel_w, stride_h, stride_w, padding_h, padding_w, padding_bottom, padding_right, dilation_h,
        dilation_w;
};

// The pixels of a value that a layer's step writes: rows first_h, first_h + step_h, ... and columns alike.
struct Places {
    std::int64_t first_h = 0, first_w = 0, step_h = 1, step_w = 1;

    bool whole() const { return first_h == 0 && first_w == 0 && step_h == 1 && step_w == 1; }
    std::int64_t rows(const Value& value) const { return (value.height - first_h + step_h - 1) / step_h; }
    std::int64_t columns(const Value& value) const { return (value.width - first_w + step_w - 1) / step_w; }
};

// Constants of a layer's outputs, padded to whole panels or blocks.
struct LayerConstants {
    Vector<std::int32_t> start, bias;
    MultiplierArrays multipliers;
    int wrap_shift, zero_point, q_max, code_offset;

    OutputConstants at(std::int64_t channel) const {
        return {start.data() + channel, bias.data() + channel, multipliers.at(channel), wrap_shift, zero_point, q_max};
    }
};

// A panel of a dense layer. Offsets of its runs count from the window's first code.
struct DensePanel {
    std::vector<Run> runs;
    Vector<std::int8_t> weights;
    Route route;
};

// A group of a dense layer's channels.
struct DenseGroup {
    std::vector<DensePanel> panels;
    LayerConstants constants;
};

using Table = std::vector<std::uint8_t>;  // a code for every code

struct DenseLayer {
    Window window;                   // stride and padding are read
    std::vector<DenseGroup> groups;  // of as many output channels each
    Places places = {};
    Table table = {};                // for the codes before they leave the cache; empty: as they are
};

// Of kChannelBlock channels.
struct DepthwisePanel {
    std::vector<TapPair> taps;
    Vector<std::int8_t> weights;  // [taps][32][2]
    Route route;
};

struct DepthwiseLayer {
    Window window;
    std::vector<DepthwisePanel> panels;
    LayerConstants constants;
    Places places = {};
    Table table = {};
};

// A value whose codes go through a table of 256.
struct LookupPart {
    Value in;
    Table table;
};

struct DenseWork;  // layer_work.hpp
struct DepthwiseWork;

// Every operator is one step. One caller at a time: threads that share a program need a lock (engine.py).
class Program {
public:
    Program(std::int64_t arena_bytes, int threads, const KernelSet& kernels);

    const KernelSet& kernels() const { return kernels_; }

    void quantize(const Value& out, Quantization q);
    void dense(const Value& in, const Value& out, DenseLayer layer);
    void depthwise(const Value& in, const Value& out, DepthwiseLayer layer);
    // Both, some rows at a time (program_rows.cpp). buffers: where rows of what lies between, of that height in all, are kept:
    // as many for each thread, one below the other, with a border of columns.
    void dense_depthwise(const Value& in, const Value& buffers, std::int64_t height, const Value& out, DenseLayer dense,
                         DepthwiseLayer depthwise);
    // For accumulators that no kernel has. skip: rows and columns of the geometry's result that come before the first
    // that is written.
    void emulate(const Value& in, const Value& out, Geometry geometry, Policy policy, int source_zero_point,
                 std::vector<std::int8_t> weight, LayerConstants constants, Places places = {},
                 std::array<std::int64_t, 2> skip = {0, 0}, Table table = {});
    // multipliers: as AddConstants has them.
    void add(const Value& a, const Value& b, const Value& out, MultiplierArrays multipliers, int zero_a, int zero_b,
             int zero_point, int q_max);
    // b: of the size of a, or one pixel that multiplies every pixel of a. multipliers: one.
    void multiply(const Value& a, const Value& b, const Value& out, MultiplierArrays multipliers, int zero_a, int zero_b,
                  int zero_point, int q_max);
    // The parts side by side.
    void lookup(std::vector<LookupPart> parts, const Value& out);
    void max_pool(const Value& in, const Value& out, Window window);
    // multipliers: of each window, in the order of the output's pixels.
    void average_pool(const Value& in, const Value& out, Window window, int source_zero_point,
                      MultiplierArrays multipliers, int zero_point, int q_max);
    // Weights of the second of two rows and columns: float, or std::int32_t in parts of kBlend.
    template <typename Weight>
    void resize(const Value& in, const Value& out, std::vector<std::int64_t> rows, std::vector<Weight> row_weights,
                std::vector<std::int64_t> columns, std::vector<Weight> column_weights, int q_max);
    // Pixels at these rows and columns.
    void resize_nearest(const Value& in, const Value& out, std::vector<std::int64_t> rows, std::vector<std::int64_t> columns);
    // Channels of `in`.
    void select(const Value& in, const Value& out, std::vector<std::int32_t> channels);
    // To [C * H * W] in the order of NCHW.
    void flatten(const Value& in, const Value& out);
    // What another step has done.
    void done();
    // Pixel (y * block + i, x * block + j) from channels (c * block + i) * block + j of pixel (y, x).
    void depth_to_space(const Value& in, const Value& out, std::int64_t block);
    // To the outputs of these indices.
    void dequantize(const Value& in, Quantization q, std::vector<int> outputs);

    // One step of the last `count` ones.
    void join(int count);

    // input: float32 [C, H, W]; outputs: float32 [C, H, W] or [C], in the order of their indices.
    void run(const float* input, const std::vector<float*>& outputs);
    // Seconds of every operator, added over `repeats` runs.
    std::vector<double> profile(const float* input, const std::vector<float*>& outputs, int repeats);

    // Codes of a value as they are now, without border: [H, W, C].
    void read(const Value& value, std::uint8_t* codes) const;
    std::int64_t arena_bytes() const { return arena_bytes_; }

private:
    std::uint8_t* at(const Value& value, std::int64_t y = 0, std::int64_t x = 0) const;
    void check(const Value& value) const;
    void check(const Places& places, const Value& value) const;
    void step(const Value* out, std::function<void()> operation);
    void fill_border(const Value& value) const;
    std::shared_ptr<const DenseWork> dense_work(const Value& in, std::int64_t rows, std::int64_t columns,
                                                std::int64_t channels, DenseLayer layer);
    // in_rows: of windows that are read.
    DepthwiseWork depthwise_work(const Value& in, std::int64_t in_rows, const Value& out, DepthwiseLayer layer) const;
    // Copy a value with its border to wide_.
    void widen(const Value& value);
    // task(first, last) over [0, rows), in pieces that are worth a thread.
    void split(std::int64_t rows, std::int64_t work_per_row, const std::function<void(std::int64_t, std::int64_t)>& task);

    std::int64_t arena_bytes_;
    std::unique_ptr<std::uint8_t[]> memory_;
    std::uint8_t* arena_;
    std::unique_ptr<std::int16_t[]> wide_;  // codes at the same places as in the arena, for exact routes; null without
    const KernelSet& kernels_;
    Pool pool_;
    std::vector<std::function<void()>> steps_;
    const float* input_ = nullptr;
    const std::vector<float*>* outputs_ = nullptr;
};

}  // namespace oaq
