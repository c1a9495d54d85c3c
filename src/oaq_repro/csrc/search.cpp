#include "search.hpp"

#include <algorithm>
#include <bitset>
#include <limits>
#include <numeric>

#include "clones.hpp"
#include "kernels.hpp"

namespace oaq {
namespace {

constexpr int kHalves = 2 * kPanel;  // half sums of a panel, two per channel
constexpr std::int32_t kLowest = std::numeric_limits<std::int16_t>::min();
constexpr std::int32_t kHighest = std::numeric_limits<std::int16_t>::max();

// Weights of either sign that a half sum adds up.
struct Signs {
    std::int32_t positive[kHalves] = {}, negative[kHalves] = {};

    void add(const Signs& other) {
        for (int h = 0; h < kHalves; ++h) {
            positive[h] += other.positive[h];
            negative[h] += other.negative[h];
        }
    }
    // Marks channels with a half that can leave 16 bits.
    void mark(int lowest, int highest, std::uint8_t (&leaves)[kPanel]) const {
        std::uint8_t halves[kHalves];
        for (int h = 0; h < kHalves; ++h)
            halves[h] = (highest * positive[h] + lowest * negative[h] > kHighest) |
                        (lowest * positive[h] + highest * negative[h] < kLowest);
        for (int c = 0; c < kPanel; ++c) leaves[c] |= halves[2 * c] | halves[2 * c + 1];
    }
};

std::vector<Signs> signs_of_steps(const std::int8_t* weights, std::int64_t steps) {
    std::vector<Signs> signs(static_cast<std::size_t>(steps));
    for (Signs& step : signs)
        for (int h = 0; h < kHalves; ++h, weights += kPair)
            for (int i = 0; i < kPair; ++i) {
                step.positive[h] += std::max<int>(weights[i], 0);
                step.negative[h] += std::min<int>(weights[i], 0);
            }
    return signs;
}

// Where channels may still be put: positions of every rank and half, the first ones last.
std::vector<std::vector<std::int64_t>> places_of(std::vector<std::int64_t> ranks, std::int64_t block, std::size_t halves) {
    std::sort(ranks.begin(), ranks.end());
    std::vector<std::vector<std::int64_t>> places(halves * static_cast<std::size_t>(ranks.back() + 1));
    for (auto position = static_cast<std::int64_t>(ranks.size()) - 1; position >= 0; --position) {
        const std::int64_t half = position / (kStep * block) * 2 + position % kStep / kPair;
        const auto rank = static_cast<std::size_t>(ranks[static_cast<std::size_t>(position)]);
        places[rank * halves + static_cast<std::size_t>(half)].push_back(position);
    }
    return places;
}

// The largest of a[i] + b[i], or something of at least `enough` where it is no less than that.
OAQ_CLONES float largest_sum(const float* a, const float* b, std::int64_t count, float enough) {
    constexpr std::int64_t kLanes = 32, kPart = 4 * kLanes;  // looked at before it is seen whether that is enough
    float most = 0.0f, lanes[kLanes] = {};
    for (std::int64_t first = 0; first < count && most < enough; first += kPart) {
        const std::int64_t end = std::min(first + kPart, count);
        std::int64_t i = first;
        for (; i + kLanes <= end; i += kLanes)
            for (std::int64_t lane = 0; lane < kLanes; ++lane) {
                const float sum = a[i + lane] + b[i + lane];
                lanes[lane] = sum > lanes[lane] ? sum : lanes[lane];
            }
        for (; i < end; ++i) lanes[0] = std::max(lanes[0], a[i] + b[i]);
        float left[kLanes];
        std::copy(lanes, lanes + kLanes, left);
        for (std::int64_t half = kLanes / 2; half > 0; half /= 2)
            for (std::int64_t lane = 0; lane < half; ++lane) left[lane] = std::max(left[lane], left[lane + half]);
        most = left[0];
    }
    return most;
}

}  // namespace

SumBounds bound_sums(const std::int8_t* weights, std::int64_t panels, const std::vector<std::int32_t>& run_steps,
                     int lowest, int highest, const std::vector<int>& folds) {
    const std::int64_t steps = std::accumulate(run_steps.begin(), run_steps.end(), std::int64_t{0});
    const std::int32_t longest_run = *std::max_element(run_steps.begin(), run_steps.end());
    SumBounds found;
    for (std::int64_t panel = 0; panel < panels; ++panel, weights += steps * kPanel * kStep) {
        const std::vector<Signs> signs = signs_of_steps(weights, steps);
        Signs all;
        for (const Signs& step : signs) {
            std::uint8_t leaves[kPanel] = {};
            step.mark(lowest, highest, leaves);
            found.apart.insert(found.apart.end(), leaves, leaves + kPanel);
            all.add(step);
        }
        std::int64_t longest[kPanel] = {};
        for (const int fold : folds) {
            if (fold >= 2 * longest_run) continue;
            std::uint8_t leaves[kPanel] = {};
            auto step = signs.begin();
            for (const std::int32_t count : run_steps) {
                for (std::int32_t first = 0; first < count; first += fold) {
                    Signs part;
                    for (const auto end = step + std::min(fold, count - first); step != end; ++step) part.add(*step);
                    part.mark(lowest, highest, leaves);
                }
            }
            for (int c = 0; c < kPanel; ++c)
                if (!leaves[c]) longest[c] = std::max<std::int64_t>(longest[c], fold);
        }
        found.longest.insert(found.longest.end(), longest, longest + kPanel);
        for (int c = 0; c < kPanel; ++c) {
            found.positive.push_back(all.positive[2 * c] + all.positive[2 * c + 1]);
            found.negative.push_back(all.negative[2 * c] + all.negative[2 * c + 1]);
        }
    }
    return found;
}

std::vector<std::int64_t> deal(const float* reach, std::int64_t channels, std::int64_t sums,
                               const std::vector<std::int64_t>& ranks, std::int64_t block) {
    const auto count = static_cast<std::size_t>(channels);
    const auto halves = static_cast<std::size_t>((channels - 1) / (kStep * block) * 2 + 2);
    std::vector<std::vector<std::int64_t>> places = places_of(ranks, block, halves);
    std::vector<float> largest(count), dealt(halves * static_cast<std::size_t>(sums), 0.0f);
    for (std::size_t c = 0; c < count; ++c) largest[c] = *std::max_element(reach + c * sums, reach + (c + 1) * sums);
    std::vector<std::size_t> sequence(count);
    std::iota(sequence.begin(), sequence.end(), std::size_t{0});
    std::stable_sort(sequence.begin(), sequence.end(),
                     [&](std::size_t a, std::size_t b) { return largest[a] > largest[b]; });
    std::vector<std::int64_t> order(count);
    for (const std::size_t channel : sequence) {
        const float* added = reach + channel * sums;
        const auto first = static_cast<std::size_t>(ranks[channel]) * halves;
        std::size_t chosen = halves;
        float least = std::numeric_limits<float>::infinity();
        for (std::size_t half = 0; half < halves; ++half) {
            if (places[first + half].empty()) continue;
            const float worst = largest_sum(dealt.data() + half * sums, added, sums, least);
            if (worst < least || chosen == halves) {
                least = worst;
                chosen = half;
            }
        }
        for (std::int64_t i = 0; i < sums; ++i) dealt[chosen * sums + i] += added[i];
        order[static_cast<std::size_t>(places[first + chosen].back())] = static_cast<std::int64_t>(channel);
        places[first + chosen].pop_back();
    }
    return order;
}

std::vector<std::int64_t> exchange(const std::uint64_t* conflicts, const std::vector<double>& costs,
                                   std::vector<std::int64_t> order) {
    const auto channels = static_cast<std::int64_t>(order.size()), words = static_cast<std::int64_t>(costs.size());
    const auto word = [&](std::int64_t position, std::int64_t w) {  // of the pair that begins there
        if (position + 1 >= channels) return std::uint64_t{0};
        return conflicts[(order[static_cast<std::size_t>(position)] * channels + order[static_cast<std::size_t>(position + 1)]) * words + w];
    };
    const auto cost = [&](std::int64_t position) {  // of its step
        const std::int64_t first = position / kStep * kStep;
        double sum = 0;
        for (std::int64_t w = 0; w < words; ++w)
            sum += costs[static_cast<std::size_t>(w)] *
                   static_cast<double>(std::bitset<64>(word(first, w) | word(first + kPair, w)).count());
        return sum;
    };
    const auto both = [&](std::int64_t i, std::int64_t j) { return cost(i) + (i / kStep == j / kStep ? 0.0 : cost(j)); };
    for (bool better = true; better;) {  // each exchange makes it cheaper, so that this ends
        better = false;
        for (std::int64_t i = 0; i < channels; ++i) {
            if (cost(i) == 0.0) continue;
            for (std::int64_t j = 0; j < channels; ++j) {
                if (i / kPair == j / kPair) continue;
                const double before = both(i, j);
                std::swap(order[static_cast<std::size_t>(i)], order[static_cast<std::size_t>(j)]);
                if (both(i, j) < before)
                    better = true;
                else
                    std::swap(order[static_cast<std::size_t>(i)], order[static_cast<std::size_t>(j)]);
            }
        }
    }
    return order;
}

}  // namespace oaq
