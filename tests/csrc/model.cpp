#include "model.hpp"

#include <algorithm>
#include <cmath>

namespace oaq::test {

std::int64_t wrapped(std::int64_t value, int bits) {
    const std::int64_t span = std::int64_t{1} << bits, kept = ((value % span) + span) % span;
    return kept >= span / 2 ? kept - span : kept;
}

std::int64_t half_sum(const std::vector<Product>& products, bool saturates) {
    std::int64_t sum = 0;
    for (std::size_t i = 0; i < products.size(); i += 2) {
        const std::int64_t pair = products[i].value() + products[i + 1].value();
        sum += saturates ? std::min<std::int64_t>(std::max<std::int64_t>(pair, -32768), 32767) : pair;
    }
    return wrapped(sum, 16);
}

bool products_of_sum(Random& random, std::int64_t target, int lowest, int highest, std::vector<Product>& products) {
    const int count = static_cast<int>(products.size());
    for (int attempt = 0; attempt < 50; ++attempt) {
        std::int64_t left = target;
        for (int i = 0; i + 1 < count; ++i) {  // each takes its share of what is left, or a bit more
            const int code = random.one_in(2) ? (highest >= -lowest ? highest : lowest) : random.between(lowest, highest);
            const std::int64_t share = code == 0 ? 0 : left / (count - i) / code + random.between(-2, 2);
            products[static_cast<std::size_t>(i)] = {code, static_cast<int>(std::clamp<std::int64_t>(share, -128, 127))};
            left -= products[static_cast<std::size_t>(i)].value();
        }
        for (int weight = -128; weight <= 127; ++weight) {
            if (weight == 0 || left % weight != 0 || left / weight < lowest || left / weight > highest) continue;
            products.back() = {static_cast<int>(left / weight), weight};
            std::swap(products.back(), products[static_cast<std::size_t>(random.between(0, count - 1))]);
            return true;
        }
    }
    return false;
}

int code_of(std::int64_t acc, bool narrow, const OutputConstants& constants, int channel) {
    const int bias = narrow || constants.wrap_shift != 0 ? constants.bias[channel] : 0;
    const std::int64_t sum = wrapped(wrapped(acc, 32 - constants.wrap_shift) + bias, 32);
    return code_by(constants.multipliers, channel, sum, constants.zero_point, constants.q_max);
}

int code_by(const Multipliers& multipliers, int i, std::int64_t sum, int zero_point, int q_max) {
    if (multipliers.kind == Requantization::kFloat32) {
        const volatile float scaled = static_cast<float>(sum) * multipliers.real[i];
        return rounded_code(scaled, zero_point, q_max);
    }
    if (multipliers.kind == Requantization::kDyadic)
        return divided_code(sum * multipliers.integer[i], multipliers.shift[i], zero_point, q_max);
    return divided_code(std::max<std::int64_t>(std::min<std::int64_t>(sum, 32767), -32768) * multipliers.integer[i], 15,
                        zero_point, q_max);
}

int divided_code(std::int64_t product, int shift, int zero_point, int q_max) {
    const std::int64_t divisor = std::int64_t{1} << shift;
    std::int64_t quotient = product / divisor, rest = product % divisor;  // towards zero
    if (rest < 0) {
        rest += divisor;
        --quotient;
    }
    if (rest >= divisor / 2) ++quotient;
    return static_cast<int>(std::max<std::int64_t>(std::min<std::int64_t>(quotient + zero_point, q_max), 0));
}

int rounded_code(double value, int zero_point, int q_max) {
    double rounded = std::floor(value + 0.5);
    if (rounded - value == 0.5 && std::fmod(rounded, 2.0) != 0.0) rounded -= 1.0;  // half to even
    return static_cast<int>(std::clamp(rounded + zero_point, 0.0, static_cast<double>(q_max)));
}

void DenseWeights::add_run(int offset, int length) {
    runs.push_back({offset, (length + kStep - 1) / kStep, (length + kPair - 1) / kPair});
    steps += runs.back().steps;
    weights.resize(static_cast<std::size_t>(steps * width * kStep), 0);
}

std::vector<std::int8_t> DenseWeights::packed(const Route& route) {
    const bool pairs = route.sums == Sums::kPairs;
    if (route.sums != Sums::kExact && !pairs) return weights;
    std::vector<std::int8_t> result;
    int first = 0;
    for (const Run& run : runs) {
        const auto of_pair = [&](int pair, int c, int k) {
            const int code = pair * kPair + k;
            return pair < 0 || pair >= run.pairs ? std::int8_t{0} : weight(first + code / kStep, c, code % kStep);
        };
        for (int i = 0; i < run.pairs + (pairs ? 1 : 0); ++i) {
            const std::size_t at = result.size();
            result.resize(at + static_cast<std::size_t>(width * kPair));
            for (int c = 0; c < width; ++c)
                for (int k = 0; k < kPair; ++k) {
                    const int place = pairs ? depthwise_place(c) : c, late = pairs && c % 2 == 0;
                    result[at + static_cast<std::size_t>(place * kPair + k)] = of_pair(i - late, c, k);
                }
        }
        first += run.steps;
    }
    return result;
}

Fraction::Fraction(Random& random, int bits, int least, int most, int value_bits) {
    const int used = random.of({bits, bits, random.between(1, bits)});
    multiplier = random.one_in(20) ? random.of({0, 1}) : random.between(std::int64_t{1} << (used - 1), (std::int64_t{1} << used) - 1);
    shift = random.one_in(2) ? random.between(least, most) : std::clamp(used + value_bits - random.between(4, 10), least, most);
}

Constants::Constants(Random& random, int count, int wrap_shift)
    : start(static_cast<std::size_t>(count)), bias(start.size()), integer(start.size()), shift(start.size()), real(start.size()) {
    output.q_max = random.of({1, 2, 15, 63, 127, 128, 254, 255});
    output.zero_point = random.of({0, output.q_max, random.between(0, output.q_max)});
    output.wrap_shift = wrap_shift;
    const auto kind = random.of({Requantization::kFloat32, Requantization::kDyadic, Requantization::kFixed16});
    for (std::size_t c = 0; c < start.size(); ++c) {
        start[c] = random.of({0, random.between(-40000, 40000), random.between(-(1 << 24), 1 << 24)});
        if (kind == Requantization::kFixed16) {
            bias[c] = random.of({0, random.between(-5000, 5000), random.between(-32768, 32767), 32767, -32768});
            integer[c] = random.of({1, 32767, random.between(1, 32767), random.between(1, 2000)});
            continue;
        }
        bias[c] = random.of({0, random.between(-5000, 5000), random.between(-kLargestBias, kLargestBias), kLargestBias, -kLargestBias});
        real[c] = std::ldexp(static_cast<float>(random.between(1, 1 << 20)), -random.between(20, 34));
        const bool short_sums = wrap_shift >= 8;  // below 2^23 with their bias, so that values of multipliers above 1 fit
        const Fraction fraction(random, 31, short_sums ? 24 : 31, 62, 16);
        integer[c] = fraction.multiplier;
        shift[c] = fraction.shift;
    }
    output.start = start.data();
    output.bias = bias.data();
    output.multipliers = {kind, real.data(), integer.data(), shift.data()};
}

void Constants::show(Random& random, int c, bool narrow, std::int64_t acc) {
    const auto i = static_cast<std::size_t>(c);
    const bool fixed16 = output.multipliers.kind == Requantization::kFixed16;
    const std::int64_t missing = random.between(-160, 160) - wrapped(acc, 32 - output.wrap_shift);
    if (narrow || output.wrap_shift != 0)
        bias[i] = static_cast<std::int32_t>(fixed16 ? std::clamp<std::int64_t>(missing, -32768, 32767) : missing);
    else
        start[i] = static_cast<std::int32_t>(wrapped(start[i] + missing, 32));
    real[i] = random.of({1.0f, 0.5f, 0.25f, 1.0f / 3.0f});  // halves are ties
    integer[i] = fixed16 ? random.of({32767, 1 << 14, 1 << 13, 10923}) : random.of({1 << 30, 1 << 30, (1 << 30) / 3 * 4});
    shift[i] = random.between(30, 32);
}

MultiplierArrays Constants::multipliers() const {
    const auto aligned = [](const auto& values) { return Vector<std::decay_t<decltype(values[0])>>(values.begin(), values.end()); };
    return {output.multipliers.kind, aligned(real), aligned(integer), aligned(shift)};
}

}  // namespace oaq::test
