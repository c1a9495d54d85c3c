#include "pool.hpp"

#include <pthread.h>

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstddef>
#include <cstdint>
#include <mutex>
#include <thread>
#include <vector>

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

// Counts the forks between the first process and this one; cheaper to ask for than the process's number.
std::atomic<int> forks{0};
[[maybe_unused]] const int registered = pthread_atfork(nullptr, nullptr, [] { forks.fetch_add(1); });

}  // namespace

// Workers and all that they look at, in one place: a forked process has copies of the mutex as its parent's threads held
// it and handles of threads that it does not have, and can only leave them alone.
class Pool::Crew {
public:
    explicit Crew(int workers) {
        workers_.reserve(static_cast<std::size_t>(workers));
        try {
            for (int i = 0; i < workers; ++i) workers_.emplace_back([this] { work(); });
        } catch (...) {
            stop();
            throw;
        }
    }
    ~Crew() { stop(); }

    bool is_parents() const { return forks_ != forks.load(std::memory_order_relaxed); }
    void run(int count, const std::function<void(int)>& task);

private:
    void work();
    bool take_one();
    void stop();

    const int forks_ = forks.load();
    std::vector<std::thread> workers_;
    // generation << 32 | tasks not yet taken: one word, so that a late worker can never take a task of another run.
    std::atomic<std::uint64_t> ticket_{0};
    std::atomic<int> done_{0};
    const std::function<void(int)>* task_ = nullptr;
    std::mutex mutex_;
    std::condition_variable wake_;
    int sleeping_ = 0;
    bool stop_ = false;
};

void Pool::Crew::stop() {
    {
        const std::lock_guard<std::mutex> lock(mutex_);
        stop_ = true;
    }
    wake_.notify_all();
    for (std::thread& worker : workers_) worker.join();
}

bool Pool::Crew::take_one() {
    std::uint64_t ticket = ticket_.load(std::memory_order_acquire);
    while ((ticket & kLeft) != 0) {
        if (!ticket_.compare_exchange_weak(ticket, ticket - 1, std::memory_order_acq_rel)) continue;
        (*task_)(static_cast<int>(ticket & kLeft) - 1);
        done_.fetch_add(1, std::memory_order_release);
        return true;
    }
    return false;
}

void Pool::Crew::run(int count, const std::function<void(int)>& task) {
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

void Pool::Crew::work() {
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

Pool::Pool(int threads) : threads_(threads), crew_(threads > 1 ? new Crew(threads - 1) : nullptr) {}

Pool::~Pool() { leave_to_parent(); }

void Pool::leave_to_parent() {
    if (crew_ != nullptr && crew_->is_parents()) static_cast<void>(crew_.release());
}

void Pool::run(int count, const std::function<void(int)>& task) {
    if (threads_ <= 1 || count <= 1) {
        for (int i = 0; i < count; ++i) task(i);
        return;
    }
    leave_to_parent();
    if (crew_ == nullptr) crew_.reset(new Crew(threads_ - 1));
    crew_->run(count, task);
}

}  // namespace oaq
