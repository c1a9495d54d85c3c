#include "pool.hpp"

#include <chrono>

namespace oaq {
namespace {

constexpr std::uint64_t kLeft = 0xffffffffu;
constexpr auto kSpin = std::chrono::microseconds(100);  // more than any operator that one thread runs alone takes in a small network

inline void relax() {
#if defined(__x86_64__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    asm volatile("yield");
#endif
}

}  // namespace

Pool::Pool(int threads) {
    for (int i = 1; i < threads; ++i) workers_.emplace_back([this] { work(); });
}

Pool::~Pool() {
    {
        const std::lock_guard<std::mutex> lock(mutex_);
        stop_ = true;
    }
    wake_.notify_all();
    for (std::thread& worker : workers_) worker.join();
}

bool Pool::take_one() {
    std::uint64_t ticket = ticket_.load(std::memory_order_acquire);
    while ((ticket & kLeft) != 0) {
        if (!ticket_.compare_exchange_weak(ticket, ticket - 1, std::memory_order_acq_rel)) continue;
        (*task_)(static_cast<int>(ticket & kLeft) - 1);
        done_.fetch_add(1, std::memory_order_release);
        return true;
    }
    return false;
}

void Pool::run(int count, const std::function<void(int)>& task) {
    if (workers_.empty() || count <= 1) {
        for (int i = 0; i < count; ++i) task(i);
        return;
    }
    task_ = &task;
    done_.store(0, std::memory_order_relaxed);
    const std::uint64_t generation = (ticket_.load(std::memory_order_relaxed) >> 32) + 1;
    bool sleepers;
    {
        const std::lock_guard<std::mutex> lock(mutex_);
        ticket_.store(generation << 32 | static_cast<std::uint64_t>(count), std::memory_order_release);
        sleepers = sleeping_ > 0;
    }
    if (sleepers) wake_.notify_all();
    while (take_one()) {
    }
    for (int spins = 0; done_.load(std::memory_order_acquire) < count; ++spins) {
        if (spins < 1000)
            relax();
        else
            std::this_thread::yield();
    }
}

void Pool::work() {
    for (;;) {
        const auto deadline = std::chrono::steady_clock::now() + kSpin;
        bool idle = true;
        while (idle && std::chrono::steady_clock::now() < deadline) {
            if (take_one())
                idle = false;
            else
                for (int i = 0; i < 32; ++i) relax();
        }
        if (!idle) continue;
        std::unique_lock<std::mutex> lock(mutex_);
        ++sleeping_;
        wake_.wait(lock, [this] { return stop_ || (ticket_.load(std::memory_order_relaxed) & kLeft) != 0; });
        --sleeping_;
        if (stop_) return;
    }
}

}  // namespace oaq
