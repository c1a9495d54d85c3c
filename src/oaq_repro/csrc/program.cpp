#include "program.hpp"

#include <algorithm>
#include <chrono>
#include <cstring>
#include <iterator>
#include <utility>

#include "elementwise.hpp"

namespace oaq {
namespace {

constexpr std::int64_t kAlignment = 64;

}  // namespace

Program::Program(std::int64_t arena_bytes, int threads, const KernelSet& kernels)
    : arena_bytes_(arena_bytes),
      memory_(new std::uint8_t[static_cast<std::size_t>(arena_bytes + 2 * kAlignment)]()),
      kernels_(kernels),
      pool_(threads) {
    const auto address = reinterpret_cast<std::uintptr_t>(memory_.get());
    arena_ = memory_.get() + 2 * kAlignment - static_cast<std::int64_t>(address % kAlignment);  // room for kSlackBefore
}

std::uint8_t* Program::at(const Value& value, std::int64_t y, std::int64_t x) const {
    return arena_ + value.offset + y * value.row() + x * value.channels;
}

void Program::check(const Value& value) const {
    const std::int64_t first = value.offset - value.border_h * value.row() - value.border_w * value.channels;
    const std::int64_t bytes = (value.height + 2 * value.border_h) * value.row();
    require(value.height > 0 && value.width > 0 && value.channels > 0 && value.border_h >= 0 && value.border_w >= 0,
            "a value of no size");
    require(first >= 0 && first + bytes + static_cast<std::int64_t>(kSlack) <= arena_bytes_, "a value beyond the arena");
}

void Program::check(const Places& places, const Value& value) const {
    require(places.first_h >= 0 && places.first_w >= 0 && places.step_h > 0 && places.step_w > 0 &&
                places.first_h < value.height && places.first_w < value.width, "places");
}

void Program::join(int count) {
    require(count > 0 && static_cast<std::size_t>(count) <= steps_.size(), "steps to join");
    if (count == 1) return;
    std::vector<std::function<void()>> last(std::make_move_iterator(steps_.end() - count),
                                            std::make_move_iterator(steps_.end()));
    steps_.resize(steps_.size() - static_cast<std::size_t>(count));
    steps_.push_back([last = std::move(last)] {
        for (const std::function<void()>& step : last) step();
    });
}

void Program::done() { step(nullptr, [] {}); }

void Program::step(const Value* out, std::function<void()> operation) {
    if (out != nullptr && (out->border_h != 0 || out->border_w != 0))
        steps_.push_back([this, value = *out, operation = std::move(operation)] {
            fill_border(value);
            operation();
        });
    else
        steps_.push_back(std::move(operation));
}

void Program::fill_border(const Value& value) const {
    const std::int64_t side = value.border_w * value.channels, row = value.row();
    std::uint8_t* first = at(value) - value.border_h * row - side;
    const auto fill = [&](std::uint8_t* p, std::int64_t n) { std::memset(p, value.fill, static_cast<std::size_t>(n)); };
    fill(first, value.border_h * row);
    fill(first + (value.border_h + value.height) * row, value.border_h * row);
    for (std::int64_t y = 0; y < value.height; ++y) {
        fill(at(value, y) - side, side);
        fill(at(value, y) + row - 2 * side, side);
    }
}

void Program::widen(const Value& value) {
    const std::int64_t rows = value.height + 2 * value.border_h, row = value.row();
    const std::int64_t first = value.offset - value.border_h * row - value.border_w * value.channels;
    split(rows, row / 8, [&](std::int64_t begin, std::int64_t end) {
        // The last row's slack is never used, but read.
        elementwise::widen(arena_ + first + begin * row, wide_.get() + first + begin * row, (end - begin) * row);
    });
}

void Program::split(std::int64_t rows, std::int64_t work_per_row,
                    const std::function<void(std::int64_t, std::int64_t)>& task) {
    const std::int64_t most = pool_.threads() == 1 ? 1 : kPiecesPerThread * pool_.threads();
    const std::int64_t pieces = std::clamp<std::int64_t>(rows * work_per_row / kPiece, 1, std::min(rows, most));
    pool_.run(static_cast<int>(pieces),
              [&](int i) { task(rows * i / pieces, rows * (i + 1) / pieces); });
}

void Program::run(const float* input, const std::vector<float*>& outputs) {
    input_ = input;
    outputs_ = &outputs;
    for (const std::function<void()>& step : steps_) step();
}

std::vector<double> Program::profile(const float* input, const std::vector<float*>& outputs, int repeats) {
    using Clock = std::chrono::steady_clock;
    std::vector<double> seconds(steps_.size(), 0.0);
    input_ = input;
    outputs_ = &outputs;
    for (int repeat = 0; repeat < repeats; ++repeat) {
        for (std::size_t i = 0; i < steps_.size(); ++i) {
            const Clock::time_point start = Clock::now();
            steps_[i]();
            seconds[i] += std::chrono::duration<double>(Clock::now() - start).count();
        }
    }
    return seconds;
}

void Program::read(const Value& value, std::uint8_t* codes) const {
    const std::int64_t line = value.width * value.channels;
    for (std::int64_t y = 0; y < value.height; ++y)
        std::memcpy(codes + y * line, at(value, y), static_cast<std::size_t>(line));
}

}  // namespace oaq
