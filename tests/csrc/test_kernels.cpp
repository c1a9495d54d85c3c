// Every kernel of every set in the table against kernels.hpp, on random tiles, overflow and all. Prints what was done;
// status 1 and the case where something differs. Random numbers are the same in every run.
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <cstring>

#include "model.hpp"

namespace oaq::test {
namespace {

constexpr int kTiles = 400;         // per kernel
constexpr std::uint8_t kGuard = 0xa5;  // what no kernel may write over
constexpr std::uint8_t kBeyond = 0xff;  // codes that count for nothing

// Operands of one tensor: codes in [0, q_max], some of them as far out as possible.
struct Source {
    int q_max, offset, extreme;

    Source(Random& random, const KernelSet& set)
        : q_max(random.of({1, 3, 15, 63, 127, 128, 200, 255, random.between(1, 255)})),
          offset(q_max > set.largest_code ? 128 : 0),
          extreme(random.between(0, 3)) {}

    std::uint8_t code(Random& random) const {
        return static_cast<std::uint8_t>(random.between(0, 3) < extreme ? random.of({0, q_max}) : random.between(0, q_max));
    }
    int weight(Random& random, int sign) const {
        if (extreme == 3) return sign;
        return random.between(0, 3) < extreme ? random.of({-128, -127, 127}) : random.between(-128, 127);
    }
};

// Memory that ends where kernels may go no further: right before a page that cannot be touched. (Sanitizers do not see
// what assembly reads.)
class Buffer {
public:
    explicit Buffer(std::size_t bytes, std::uint8_t fill) {
        const auto page = static_cast<std::size_t>(sysconf(_SC_PAGESIZE));
        const std::size_t usable = (bytes + page - 1) / page * page;
        mapped_ = usable + page;
        memory_ = static_cast<std::uint8_t*>(mmap(nullptr, mapped_, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
        if (memory_ == MAP_FAILED || mprotect(memory_ + usable, page, PROT_NONE) != 0) std::abort();
        begin_ = memory_ + usable - bytes;
        std::fill(begin_, begin_ + bytes, fill);
    }
    ~Buffer() { munmap(memory_, mapped_); }
    Buffer(const Buffer&) = delete;
    Buffer& operator=(const Buffer&) = delete;

    std::uint8_t* begin() const { return begin_; }

private:
    std::uint8_t *memory_, *begin_;
    std::size_t mapped_;
};

struct DenseCase : DenseWeights {
    std::vector<int> lengths;  // codes of each run that have weights
};

DenseCase dense_case(Random& random, const Source& source, int width) {
    DenseCase layer;
    layer.width = width;
    int offset = random.between(0, 9);
    for (int i = random.of({1, 1, 2, 3, 9}); i > 0; --i) {
        const int length = random.of({random.between(1, 12), random.between(1, 160)});
        layer.add_run(offset, length);
        layer.lengths.push_back(length);
        offset += layer.runs.back().steps * kStep + random.between(-2, 70);
    }
    int first = 0;
    for (std::size_t i = 0; i < layer.runs.size(); ++i) {
        for (int c = 0; c < width; ++c) {
            const int sign = random.of({-128, 127});
            for (int k = 0; k < layer.lengths[i]; ++k)
                layer.weight(first + k / kStep, c, k % kStep) = static_cast<std::int8_t>(source.weight(random, sign));
        }
        first += layer.runs[i].steps;
    }
    return layer;
}

// Sums one past and up to the ends of 16 bits, in one block of steps of channel c and the pixel's codes.
void put_at_bound(Random& random, DenseCase& layer, std::uint8_t* codes, const Source& source, const Route& route, int c) {
    const int steps = std::min(layer.runs[0].steps, route.fold > 0 ? route.fold : layer.runs[0].steps);
    if (layer.lengths[0] < steps * kStep) return;
    const int half = random.between(0, 1);
    std::vector<Product> products(static_cast<std::size_t>(2 * steps));
    const int target = random.of({-32769, -32768, 32767, 32768});
    if (!products_of_sum(random, target, -source.offset, source.q_max - source.offset, products)) return;
    for (int i = 0; i < 2 * steps; ++i) {
        const int k = i / 2 * kStep + 2 * half + i % 2;
        codes[layer.runs[0].offset + k] = static_cast<std::uint8_t>(products[static_cast<std::size_t>(i)].code + source.offset);
        layer.weight(k / kStep, c, k % kStep) = static_cast<std::int8_t>(products[static_cast<std::size_t>(i)].weight);
    }
}

std::int64_t dense_sum(DenseCase& layer, const std::uint8_t* codes, const Source& source, const Route& route, bool saturates,
                       std::int64_t start, int c) {
    const bool exact = route.sums == Sums::kExact;
    std::int64_t acc = start;
    int begin = 0;
    for (const Run& run : layer.runs) {
        const auto product = [&](int step, int k) {
            const int offset = exact ? 0 : source.offset;
            return Product{codes[run.offset + step * kStep + k] - offset, layer.weight(begin + step, c, k)};
        };
        for (int first = 0; first < run.steps;) {
            const int count = route.fold > 0 ? std::min(route.fold, run.steps - first) : 1;
            for (int h = 0; h < 2; ++h) {
                std::vector<Product> products;
                for (int s = first; s < first + count; ++s)
                    for (int k = 2 * h; k < 2 * h + 2; ++k) products.push_back(product(s, k));
                if (exact)
                    for (const Product& p : products) acc += p.value();
                else
                    acc += half_sum(products, saturates);
            }
            first += count;
        }
        begin += run.steps;
    }
    return wrapped(acc, route.wraps() ? 16 : 32);
}

int wrap_shift_of(Random& random, const Route& route) {
    if (route.wraps()) return random.of({0, 16});  // the planner asks for no other
    return random.of({0, 0, 8, 16, 20, random.between(0, 24)});
}

void test_dense(Random& random, const KernelSet& set, const DenseRoute& tested) {
    const Route& route = tested.route;
    const Source source(random, set);
    const int width = route.width();
    DenseCase layer = dense_case(random, source, width);
    int span = 0;
    for (const Run& run : layer.runs) span = std::max(span, run.offset + run.steps * kStep);
    const int pixels = random.between(1, 2 * tested.pixels + 3), channels = random.of({width, random.between(1, width)});
    const int in_step = random.between(1, span + 9), in_bytes = (pixels - 1) * in_step + span;
    const int out_step = channels + random.between(0, 9), out_offset = random.between(0, 30);
    const int out_bytes = out_offset + (pixels - 1) * out_step + channels;

    const Buffer in_memory(kSlackBefore + static_cast<std::size_t>(in_bytes) + kSlack, kBeyond);
    const Buffer out(static_cast<std::size_t>(out_bytes), kGuard);
    std::uint8_t* const in = in_memory.begin() + kSlackBefore;
    for (int i = 0; i < in_bytes; ++i) in[i] = source.code(random);
    if (random.one_in(2)) put_at_bound(random, layer, in, source, route, random.between(0, channels - 1));

    Constants constants(random, width, wrap_shift_of(random, route));
    const auto acc = [&](int p, int c) {
        return dense_sum(layer, in + p * in_step, source, route, set.saturates,
                         constants.start[static_cast<std::size_t>(c)], c);
    };
    if (random.one_in(2))
        for (int c = 0; c < channels; ++c)
            constants.show(random, c, route.wraps(), acc(random.one_in(2) ? 0 : pixels - 1, c));

    const bool wide = route.sums == Sums::kExact;
    const Buffer wide_memory(wide ? 2 * (static_cast<std::size_t>(in_bytes) + kSlack) : 1, kBeyond);
    for (int i = 0; wide && i < in_bytes; ++i) reinterpret_cast<std::int16_t*>(wide_memory.begin())[i] = in[i];
    std::vector<const std::uint8_t*> from;
    std::vector<std::uint8_t*> to;
    for (int p = 0; p < pixels; ++p) {
        from.push_back(wide ? wide_memory.begin() + 2 * p * in_step : in + p * in_step);
        to.push_back(out.begin() + p * out_step);
    }
    const std::vector<std::int8_t> packed = layer.packed(route);
    const Buffer weights(packed.size(), 0);
    std::memcpy(weights.begin(), packed.data(), packed.size());
    DenseBlock block;
    block.pixels = pixels;
    block.in = from.data();
    block.out = to.data();
    block.out_offset = out_offset;
    block.runs = layer.runs.data();
    block.run_count = static_cast<int>(layer.runs.size());
    block.weights = reinterpret_cast<const std::int8_t*>(weights.begin());
    block.constants = constants.output;
    block.channels = channels;
    block.code_offset = source.offset;
    tested.kernel(block);

    std::vector<std::uint8_t> expected(static_cast<std::size_t>(out_bytes), kGuard);
    for (int p = 0; p < pixels; ++p)
        for (int c = 0; c < channels; ++c)
            expected[static_cast<std::size_t>(out_offset + p * out_step + c)] =
                static_cast<std::uint8_t>(code_of(acc(p, c), route.wraps(), constants.output, c));
    for (std::size_t i = 0; i < expected.size(); ++i)
        expect_same(out.begin()[i], expected[i], "%s, dense %s %d, %s, %d pixels, %d channels, %d steps, q_max %d: byte %d",
                    set.name, route.name(), route.fold, constants.name(), pixels, channels, layer.steps, source.q_max,
                    static_cast<int>(i));
}

// Taps as a 3x3 window's or anywhere, packed as packing.py does.
std::vector<TapPair> taps_of(Random& random, int pixel, int row) {
    std::vector<int> places;
    if (random.one_in(2)) {
        const int dilation = random.between(1, 2);
        for (int i = 0; i < 9; ++i) places.push_back((i / 3 * row + i % 3 * pixel) * dilation);
    } else {
        for (int i = random.between(1, 27); i > 0; --i) places.push_back(random.between(0, 4 * row));
    }
    const bool pairs = !random.one_in(3);
    std::vector<TapPair> taps;
    for (std::size_t i = 0; i < places.size(); i += pairs ? 2 : 1)
        taps.push_back({places[i], pairs && i + 1 < places.size() ? places[i + 1] : places[i]});
    return taps;
}

void test_depthwise(Random& random, const KernelSet& set) {
    const Source source(random, set);
    const int channels = random.of({kChannelBlock, random.between(1, kChannelBlock)});
    const int all = random.of({channels, channels + random.between(0, 40)});  // of a pixel
    const int stride = random.between(1, 2), rows = random.between(1, 5), pixels = random.between(1, 9);
    const int row = ((pixels - 1) * stride + 5) * all;
    const std::vector<TapPair> taps = taps_of(random, all, row);
    const int count = static_cast<int>(taps.size());
    const int fold = random.of({0, 1, 2, 3, 4, 5, random.between(0, count + 1)});
    const Route route = fold == 0 ? Route{Sums::kWhole} : folded(fold);
    int span = 0;
    for (const TapPair& tap : taps) span = std::max({span, tap.a, tap.b});
    const int bytes = (rows - 1) * stride * row + (pixels - 1) * stride * all + span + channels;

    const Buffer in(static_cast<std::size_t>(bytes) + kSlack, kBeyond);
    for (int i = 0; i < bytes; ++i) in.begin()[i] = source.code(random);
    const Buffer packed(static_cast<std::size_t>(count * kChannelBlock * 2), 0);
    auto* const weights = reinterpret_cast<std::int8_t*>(packed.begin());
    const auto weight = [&](int t, int c, int which) -> std::int8_t& {
        return weights[(t * kChannelBlock + depthwise_place(c)) * 2 + which];
    };
    for (int c = 0; c < kChannelBlock; ++c) {
        const int sign = random.of({-128, 127});
        for (int t = 0; t < count; ++t) {
            const bool single = taps[static_cast<std::size_t>(t)].a == taps[static_cast<std::size_t>(t)].b;
            weight(t, c, 0) = static_cast<std::int8_t>(source.weight(random, sign));
            weight(t, c, 1) = static_cast<std::int8_t>(single ? 0 : source.weight(random, sign));
        }
    }
    // Out in rows that lie apart.
    const int out_step = all, out_row = pixels * all + random.between(0, 40);
    const int out_bytes = (rows - 1) * out_row + (pixels - 1) * out_step + channels;
    const Buffer out(static_cast<std::size_t>(out_bytes), kGuard);

    Constants constants(random, kChannelBlock, wrap_shift_of(random, route));
    const auto acc = [&](int y, int x, int c) {
        const std::uint8_t* codes = in.begin() + (y * row + x * all) * stride + c;
        std::int64_t sum = constants.start[static_cast<std::size_t>(c)];
        std::vector<Product> products;
        for (int t = 0; t < count; ++t) {
            const TapPair& tap = taps[static_cast<std::size_t>(t)];
            products.push_back({codes[tap.a] - source.offset, weight(t, c, 0)});
            products.push_back({codes[tap.b] - source.offset, weight(t, c, 1)});
            if (t + 1 < count && (route.wraps() || (t + 1) % fold != 0)) continue;
            sum += half_sum(products, set.saturates);
            products.clear();
        }
        return wrapped(sum, route.wraps() ? 16 : 32);
    };
    if (random.one_in(2))
        for (int c = 0; c < channels; ++c)
            constants.show(random, c, route.wraps(), acc(random.between(0, rows - 1), random.between(0, pixels - 1), c));

    DepthwiseBlock block;
    block.in = in.begin();
    block.out = out.begin();
    block.rows = rows;
    block.pixels = pixels;
    block.in_row = row * stride;
    block.out_row = out_row;
    block.in_step = all * stride;
    block.out_step = out_step;
    block.taps = taps.data();
    block.tap_count = count;
    block.weights = weights;
    block.constants = constants.output;
    block.channels = channels;
    block.route = route;
    block.code_offset = source.offset;
    set.depthwise(block);

    std::vector<std::uint8_t> expected(static_cast<std::size_t>(out_bytes), kGuard);
    for (int y = 0; y < rows; ++y)
        for (int x = 0; x < pixels; ++x)
            for (int c = 0; c < channels; ++c)
                expected[static_cast<std::size_t>(y * out_row + x * out_step + c)] =
                    static_cast<std::uint8_t>(code_of(acc(y, x, c), route.wraps(), constants.output, c));
    for (std::size_t i = 0; i < expected.size(); ++i)
        expect_same(out.begin()[i], expected[i], "%s, depthwise %s %d, %s, %d taps, %d x %d pixels, %d channels, q_max %d: byte %d",
                    set.name, route.name(), fold, constants.name(), count, rows, pixels, channels, source.q_max, static_cast<int>(i));
}

void test_add(Random& random, const KernelSet& set) {
    const auto kind = random.of({Requantization::kFloat32, Requantization::kDyadic, Requantization::kFixed16});
    const auto scale = [&] {
        return std::ldexp(static_cast<float>(random.between(1, 1 << 10)), -random.between(0, random.one_in(9) ? 60 : 12));
    };
    const bool narrow = kind == Requantization::kFixed16;
    const Fraction first(random, narrow ? 15 : 31, 1, narrow ? 30 : 62, 8), second(random, narrow ? 15 : 31, 1, 30, 8);
    const float real[] = {scale(), scale(), scale()};
    const std::int32_t integer[] = {first.multiplier, random.one_in(3) ? second.multiplier : first.multiplier / random.between(1, 9)};
    const int largest_a = random.between(1, 255), largest_b = random.between(1, 255), q_max = random.between(1, 255);
    const AddConstants k{{kind, real, integer, &first.shift}, random.between(0, largest_a), random.between(0, largest_b),
                         random.between(0, q_max), q_max};
    const auto count = static_cast<std::size_t>(random.between(1, 200));
    const Buffer a(count + kSlack, kBeyond), b(count + kSlack, kBeyond), out(count, kGuard);
    for (std::size_t i = 0; i < count; ++i) {
        a.begin()[i] = static_cast<std::uint8_t>(random.between(0, largest_a));
        b.begin()[i] = static_cast<std::uint8_t>(random.between(0, largest_b));
    }
    set.add(a.begin(), b.begin(), out.begin(), static_cast<std::int64_t>(count), k);
    for (std::size_t i = 0; i < count; ++i) {
        const int code_a = a.begin()[i] - k.zero_a, code_b = b.begin()[i] - k.zero_b;
        int expected;
        if (kind == Requantization::kFloat32) {
            const volatile float real_a = static_cast<float>(code_a) * real[0], real_b = static_cast<float>(code_b) * real[1];
            const volatile float sum = real_a + real_b;
            const volatile float value = sum / real[2];
            expected = rounded_code(value, k.zero_point, k.q_max);
        } else {
            const std::int64_t sum = std::int64_t{code_a} * integer[0] + std::int64_t{code_b} * integer[1];
            expected = divided_code(sum, first.shift, k.zero_point, k.q_max);
        }
        expect_same(out.begin()[i], expected, "%s, %s sum: code %d of %d", set.name, kRequantizationNames[static_cast<int>(kind)],
                    static_cast<int>(i), static_cast<int>(count));
    }
}

void test_multiply(Random& random, const KernelSet& set) {
    const auto kind = random.of({Requantization::kFloat32, Requantization::kDyadic});
    const float real = std::ldexp(static_cast<float>(random.between(1, 1 << 20)), -random.between(0, random.one_in(9) ? 60 : 30));
    const Fraction fraction(random, 31, 1, 62, 16);
    const int q_max = random.between(1, 255);
    const MultiplyConstants k{{kind, &real, &fraction.multiplier, &fraction.shift}, random.between(0, 255),
                              random.between(0, 255), random.between(0, q_max), q_max};
    const auto channels = static_cast<std::size_t>(random.between(1, 200));
    const auto pixels = static_cast<std::size_t>(random.of({1, 1, 2, 5})), count = pixels * channels;
    const Buffer a(count, kBeyond), b(channels, kBeyond), out(count, kGuard);
    for (std::size_t i = 0; i < count; ++i) a.begin()[i] = static_cast<std::uint8_t>(random.between(0, 255));
    for (std::size_t i = 0; i < channels; ++i) b.begin()[i] = static_cast<std::uint8_t>(random.between(0, 255));
    set.multiply(a.begin(), b.begin(), out.begin(), static_cast<std::int64_t>(pixels), static_cast<std::int64_t>(channels), k);
    for (std::size_t i = 0; i < count; ++i) {
        const int product = (a.begin()[i] - k.zero_a) * (b.begin()[i % channels] - k.zero_b);
        expect_same(out.begin()[i], code_by(k.multipliers, 0, product, k.zero_point, k.q_max), "%s, %s product: code %d of %d",
                    set.name, kRequantizationNames[static_cast<int>(kind)], static_cast<int>(i), static_cast<int>(count));
    }
}

// In another place and in place. Tables that are random, constant in parts, or rise.
void test_lookup(Random& random, const KernelSet& set) {
    std::uint8_t table[256];
    const int kind = random.between(0, 2), part = random.of({1, 5, 16, 256});
    for (int code = 0; code < 256; ++code)
        table[code] = static_cast<std::uint8_t>(kind == 0 ? random.between(0, 255)
                                                          : kind == 1 && code % part != 0 ? table[code - 1] : code);
    const auto count = static_cast<std::size_t>(random.between(1, 600));
    const Buffer in(count, kBeyond), out(count, kGuard);
    for (std::size_t i = 0; i < count; ++i) in.begin()[i] = static_cast<std::uint8_t>(random.between(0, 255));
    set.lookup(in.begin(), out.begin(), static_cast<std::int64_t>(count), table);
    const std::vector<std::uint8_t> codes(in.begin(), in.begin() + count);
    set.lookup(in.begin(), in.begin(), static_cast<std::int64_t>(count), table);
    for (std::size_t i = 0; i < count; ++i)
        for (const Buffer* found : {&in, &out})
            expect_same(found->begin()[i], table[codes[i]], "%s, lookup of %d: code %d of %d", set.name, codes[i],
                        static_cast<int>(i), static_cast<int>(count));
}

}  // namespace
}  // namespace oaq::test

int main() {
    using namespace oaq;
    test::Random plans(1);
    test::test_plans(plans);
    for (int i = 0; i < kKernelSetCount; ++i) {
        const KernelSet& set = *kKernelSets[i];
        if (!set.available()) {
            std::printf("%s: not available here\n", set.name);
            continue;
        }
        test::Random random(1);
        int routes = 0;
        for (const DenseRoute& route : set.dense) {
            if (route.kernel == nullptr) continue;
            ++routes;
            for (int n = 0; n < test::kTiles; ++n) test::test_dense(random, set, route);
        }
        for (int n = 0; n < test::kTiles; ++n) {
            test::test_add(random, set);
            test::test_multiply(random, set);
            test::test_lookup(random, set);
        }
        for (int n = 0; n < 7 * test::kTiles; ++n) test::test_depthwise(random, set);
        std::printf("%s: %d dense tiles of %d routes, %d depthwise tiles, %d sums, products and lookups", set.name, routes * test::kTiles, routes,
                    7 * test::kTiles, test::kTiles);
        std::fflush(stdout);
        test::test_layers(random, set);
    }
    return 0;
}
