// A dense layer and the depthwise layer that alone reads it, some rows at a time: what lies between them, several times as
// large as what they read and write, never leaves the cache.
//
//   image rows of the dense layer's output       a buffer of `held` rows
//     lo ..      kept from the strip before   -> moved to its start
//     .. hi      new                          -> written behind it; rows outside the image are padding
//   from all of them the depthwise layer makes `strip` rows; then lo goes on by strip * stride
#include <algorithm>
#include <atomic>
#include <cstring>
#include <memory>
#include <utility>

#include "layer_work.hpp"

namespace oaq {
namespace {

constexpr int kChunksPerThread = 4;  // which begin anew: their first rows are computed twice

// One of the buffers that nobody uses; there are as many as threads.
class Buffers {
public:
    explicit Buffers(int count) : taken_(static_cast<std::size_t>(count)) {}

    int take() {
        for (std::size_t i = 0;; i = (i + 1) % taken_.size())
            if (!taken_[i].exchange(true, std::memory_order_acquire)) return static_cast<int>(i);
    }
    void put(int i) { taken_[static_cast<std::size_t>(i)].store(false, std::memory_order_release); }

private:
    std::vector<std::atomic<bool>> taken_;
};

// Everything of such a step but threads.
struct RowsWork {
    std::shared_ptr<const DenseWork> dense;
    DepthwiseWork depthwise;
    Value buffers;               // of all threads, one below the other; its border is that of the columns
    std::int64_t width, height;  // of the dense layer's output
    std::int64_t strip, held;    // rows that the depthwise layer makes at a time, and what it reads of them
    std::vector<std::uint8_t*> targets;  // of every pixel of all buffers

    // Output rows from `first` to `last`, the former one at `out`. buffer: its first code, border included.
    void chunk(int index, std::uint8_t* buffer, std::int64_t first, std::int64_t last, std::uint8_t* out,
               const KernelSet& kernels) const;
    void fill_columns(std::uint8_t* buffer) const;
};

void RowsWork::fill_columns(std::uint8_t* buffer) const {
    const std::int64_t row = buffers.row(), side = buffers.border_w * buffers.channels;
    for (std::int64_t y = 0; y < held; ++y) {
        std::memset(buffer + y * row, buffers.fill, static_cast<std::size_t>(side));
        std::memset(buffer + (y + 1) * row - side, buffers.fill, static_cast<std::size_t>(side));
    }
}

void RowsWork::chunk(int index, std::uint8_t* buffer, std::int64_t first, std::int64_t last, std::uint8_t* out,
                     const KernelSet& kernels) const {
    const Window& w = depthwise.layer.window;
    const std::int64_t row = buffers.row(), read = (w.kernel_h - 1) * w.dilation_h + 1;
    fill_columns(buffer);
    std::int64_t lowest = first * w.stride_h - w.padding_h, made = lowest;  // image rows: of the buffer's first, and behind its last
    for (std::int64_t y = first; y < last; y += strip) {
        const std::int64_t rows = std::min(strip, last - y), before = lowest;
        lowest = y * w.stride_h - w.padding_h;
        const std::int64_t end = lowest + (rows - 1) * w.stride_h + read;
        if (made > lowest)
            std::memmove(buffer, buffer + (lowest - before) * row, static_cast<std::size_t>((made - lowest) * row));
        made = std::max(made, lowest);
        for (std::int64_t at = made; at < end; ++at)
            if (at < 0 || at >= height)
                std::memset(buffer + (at - lowest) * row, buffers.fill, static_cast<std::size_t>(row));
        const std::int64_t begin = std::clamp<std::int64_t>(made, 0, height), stop = std::clamp<std::int64_t>(end, begin, height);
        if (stop > begin)
            dense->pixels(begin * width, targets.data() + (index * held + begin - lowest) * width, (stop - begin) * width, 0,
                          dense->panels.size(), kernels.lookup);
        made = end;
        const std::uint8_t* window = buffer + (buffers.border_w - w.padding_w) * buffers.channels;
        depthwise.rows(window, out + (y - first) * depthwise.out_row, rows, kernels);
    }
}

}  // namespace

void Program::dense_depthwise(const Value& in, const Value& buffers, std::int64_t height, const Value& out, DenseLayer dense,
                              DepthwiseLayer depthwise) {
    check(in);
    check(buffers);
    check(out);
    const Places& places = depthwise.places;
    require(dense.places.whole() && places.whole(), "places of layers by rows");
    const Window& w = depthwise.window;
    const std::int64_t read = (w.kernel_h - 1) * w.dilation_h + 1, held = buffers.height / pool_.threads();
    require(w.stride_h > 0 && held >= read && buffers.border_h == 0 && w.padding_w <= buffers.border_w &&
            (out.width - 1) * w.stride_w - w.padding_w + (w.kernel_w - 1) * w.dilation_w < buffers.width + buffers.border_w,
            "rows that are held");
    const std::int64_t strip = (held - read) / w.stride_h + 1;
    const std::int64_t farthest = (read - 1) * buffers.row() + (w.kernel_w - 1) * w.dilation_w * buffers.channels;
    for (const DepthwisePanel& panel : depthwise.panels)
        for (const TapPair& tap : panel.taps)
            require(std::min(tap.a, tap.b) >= 0 && std::max(tap.a, tap.b) <= farthest, "taps beyond the rows that are held");
    auto work = std::make_shared<RowsWork>();
    work->dense = dense_work(in, height, buffers.width, buffers.channels, std::move(dense));
    Value window = buffers;  // as the depthwise layer sees it: its padding above lies inside
    window.offset += w.padding_h * buffers.row();
    work->depthwise = depthwise_work(window, strip, out, std::move(depthwise));
    work->buffers = buffers;
    work->width = buffers.width;
    work->height = height;
    work->strip = strip;
    work->held = held;
    for (std::int64_t y = 0; y < held * pool_.threads(); ++y)
        for (std::int64_t x = 0; x < buffers.width; ++x) work->targets.push_back(at(buffers, y, x));
    const std::int64_t strips = (out.height + strip - 1) / strip;
    const std::int64_t chunks = pool_.threads() == 1 ? 1 : std::min<std::int64_t>(strips, kChunksPerThread * pool_.threads());
    const auto free = std::make_shared<Buffers>(pool_.threads());
    step(&out, [this, in, out, work, free, chunks] {
        if (work->dense->wide) widen(in);
        pool_.run(static_cast<int>(chunks), [&](int chunk) {
            const std::int64_t first = out.height * chunk / chunks, last = out.height * (chunk + 1) / chunks;
            const int index = free->take();
            std::uint8_t* buffer = at(work->buffers, index * work->held, -work->buffers.border_w);
            work->chunk(index, buffer, first, last, at(out, first), kernels_);
            free->put(index);
        });
    });
}

}  // namespace oaq
