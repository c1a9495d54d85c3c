// Chooses the kernels. Compiled without instruction set flags: it runs before anything is known of the CPU.
#include <cstring>
#include <stdexcept>
#include <string>

#include "kernels.hpp"

namespace oaq {

extern const KernelSet kPortable;
#if defined(__x86_64__)
extern const KernelSet kAvx2;
bool cpu_has_avx2() { return __builtin_cpu_supports("avx2") != 0; }
const KernelSet* const kKernelSets[] = {&kAvx2, &kPortable};
#elif defined(__aarch64__)
extern const KernelSet kNeon;
const KernelSet* const kKernelSets[] = {&kNeon, &kPortable};
#else
const KernelSet* const kKernelSets[] = {&kPortable};
#endif
const int kKernelSetCount = static_cast<int>(sizeof kKernelSets / sizeof kKernelSets[0]);

const KernelSet& select_kernels(const char* name) {
    std::string names;
    for (const KernelSet* set : kKernelSets) {
        if (!set->available()) continue;
        if (name == nullptr || std::strcmp(name, set->name) == 0) return *set;
        names += (names.empty() ? "" : ", ") + std::string(set->name);
    }
    throw std::invalid_argument("OAQ_ISA: found '" + std::string(name) + "', expected one of: " + names);
}

}  // namespace oaq
