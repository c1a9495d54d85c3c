// The tasks of dense layers: every output computed once, threads kept busy, sizes that the caches hold.
#include <algorithm>

#include "dense_plan.hpp"
#include "model.hpp"
#include "pool.hpp"

namespace oaq::test {
namespace {

constexpr int kPlans = 20000;
constexpr int kLargestTask = 1 << 21;  // products that one thread gets although others wait

void expect(bool holds, const char* what, const DenseSizes& s, int threads) {
    expect_same(holds, true, "plan of %d pixels, %d panels, %d codes read, %d written, rows of %d, %d threads: %s",
                static_cast<int>(s.pixels), static_cast<int>(s.panels), static_cast<int>(s.read), static_cast<int>(s.written),
                s.tile, threads, what);
}

void test_plan(Random& random) {
    const int rows = random.between(1, 8), threads = random.of({1, 1, 2, 3, 16});
    const std::int64_t pixels = random.one_in(4) ? random.between(1, 20) : random.between(1, 20000);
    const std::int64_t panels = random.between(1, 90), read = random.between(1, 5000), outputs = panels * kPanel;
    const DenseSizes s{pixels, panels, read, outputs, outputs * read, pixels * outputs * read, rows};
    const DensePlan plan = plan_dense(s, threads);
    expect(plan.block > 0 && plan.block % rows == 0, "blocks of whole rows", s, threads);
    expect((plan.blocks - 1) * plan.block < pixels && plan.blocks * plan.block >= pixels, "blocks that cover the pixels", s,
           threads);
    expect(plan.parts >= 1 && plan.parts <= panels, "parts that have panels", s, threads);
    expect(threads > 1 || plan.parts == 1, "one thread that reads pixels once", s, threads);
    if (plan.blocks > 1)  // else weights are what has to be read once
        expect(plan.block <= std::max<std::int64_t>(2 * rows, (64 * 1024) / (read + outputs) + rows), "blocks in the cache", s,
               threads);
    const std::int64_t most = std::min(panels * ((pixels + rows - 1) / rows), std::int64_t{kPiecesPerThread} * threads);
    if (threads > 1 && s.products / kLargestTask >= most)
        expect(plan.tasks() >= std::min<std::int64_t>(panels, threads), "work for all threads", s, threads);
}

}  // namespace

void test_plans(Random& random) {
    for (int n = 0; n < kPlans; ++n) test_plan(random);
    std::printf("%d plans of dense layers: all sound\n", kPlans);
}

}  // namespace oaq::test
