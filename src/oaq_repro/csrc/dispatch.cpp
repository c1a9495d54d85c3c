// The table of kernels. Compiled without instruction set flags: it runs before anything is known of the CPU.
#include <stdexcept>
#include <string>

#include "kernels.hpp"

namespace oaq {

// OAQ_FEATURES and OAQ_KERNEL_SETS come from kernels.cmake: what sets ask the processor for, and the sets, best first.
#define OAQ_FEATURE(name) \
    bool cpu_has_##name() { return __builtin_cpu_supports(#name) != 0; }
OAQ_FEATURES
#define OAQ_SET(set) extern const KernelSet set;
OAQ_KERNEL_SETS
#undef OAQ_SET
#define OAQ_SET(set) &set,
const KernelSet* const kKernelSets[] = {OAQ_KERNEL_SETS};
const int kKernelSetCount = static_cast<int>(sizeof kKernelSets / sizeof kKernelSets[0]);

const KernelSet& kernels_named(const std::string& name) {
    for (const KernelSet* set : kKernelSets)
        if (set->available() && name == set->name) return *set;
    throw std::invalid_argument("isa: found '" + name + "', expected one that is available here");
}

}  // namespace oaq
