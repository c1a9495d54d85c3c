// Threads that share the tasks of one operator.
#pragma once

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <functional>
#include <mutex>
#include <thread>
#include <vector>

namespace oaq {

// `run` hands out tasks one by one, to the caller and to whichever workers are awake. It waits for tasks that were
// taken, never for a worker that was not scheduled: on a busy machine the caller does the work itself.
class Pool {
public:
    explicit Pool(int threads);
    ~Pool();
    Pool(const Pool&) = delete;
    Pool& operator=(const Pool&) = delete;

    int threads() const { return static_cast<int>(workers_.size()) + 1; }
    // Calls task(i) for 0 <= i < count, in any order; `task` must not throw. One caller at a time.
    void run(int count, const std::function<void(int)>& task);

private:
    void work();
    bool take_one();

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

}  // namespace oaq
