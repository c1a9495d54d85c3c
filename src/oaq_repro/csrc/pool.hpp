// Threads that share the tasks of one operator.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>

namespace oaq {

// How work is handed to threads.
constexpr std::int64_t kPiece = 8192;            // operations that are worth handing to another thread
constexpr int kPiecesPerThread = 8;              // at most, as threads are not equally fast

// `run` hands out tasks one by one, to the caller and to whichever workers are awake. It waits for tasks that were
// taken, never for a worker that was not scheduled: on a busy machine the caller does the work itself.
//
// In a forked process, where the threads of its parent do not exist, the first `run` starts new ones.
class Pool {
public:
    explicit Pool(int threads);  // std::system_error where the system does not start as many
    ~Pool();
    Pool(const Pool&) = delete;
    Pool& operator=(const Pool&) = delete;

    int threads() const { return threads_; }
    // Calls task(i) for 0 <= i < count, in any order; `task` must not throw. One caller at a time.
    void run(int count, const std::function<void(int)>& task);

private:
    class Crew;
    void leave_to_parent();

    int threads_;
    std::unique_ptr<Crew> crew_;  // null for one thread
};

}  // namespace oaq
