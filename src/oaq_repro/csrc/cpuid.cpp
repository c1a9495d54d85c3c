// Hides AVX-VNNI from libraries that ask the processor itself, while they are loaded: benchmark/restrict.py.
//
// Linux can make the instruction `cpuid` fault (arch_prctl, ARCH_SET_CPUID; the flag `cpuid_fault` of /proc/cpuinfo). The
// handler answers in its place, with what the processor says but for AVX-VNNI. Threads that are started meanwhile inherit
// the setting, so the handler stays. The setting must not: other libraries put handlers of their own in its place, and a
// thread that blocks the signal would end the process.

#include <asm/prctl.h>
#include <cpuid.h>
#include <nanobind/nanobind.h>
#include <signal.h>
#include <sys/syscall.h>
#include <ucontext.h>
#include <unistd.h>

#include <cerrno>

#ifndef ARCH_SET_CPUID
#define ARCH_SET_CPUID 0x1012
#endif

namespace {

constexpr unsigned kFeatures = 7;             // leaf of cpuid
constexpr unsigned kAvxVnni = 1u << 4;        // eax of its subleaf 1
constexpr unsigned kAvxVnniInt8 = 1u << 4;    // edx
constexpr unsigned kAvxVnniInt16 = 1u << 10;  // edx

struct sigaction previous;

bool allow_cpuid(bool allowed) { return syscall(SYS_arch_prctl, ARCH_SET_CPUID, allowed) == 0; }

void answer(int, siginfo_t*, void* context) {
  const int error = errno;
  greg_t* registers = static_cast<ucontext_t*>(context)->uc_mcontext.gregs;
  const auto* code = reinterpret_cast<const unsigned char*>(registers[REG_RIP]);
  if (code[0] != 0x0f || code[1] != 0xa2) {  // another fault: it happens again, under the handler that was there before
    sigaction(SIGSEGV, &previous, nullptr);
    return;
  }
  const auto leaf = static_cast<unsigned>(registers[REG_RAX]), subleaf = static_cast<unsigned>(registers[REG_RCX]);
  unsigned eax, ebx, ecx, edx;
  allow_cpuid(true);
  __cpuid_count(leaf, subleaf, eax, ebx, ecx, edx);
  allow_cpuid(false);
  if (leaf == kFeatures && subleaf == 1) {
    eax &= ~kAvxVnni;
    edx &= ~(kAvxVnniInt8 | kAvxVnniInt16);
  }
  registers[REG_RAX] = eax;
  registers[REG_RBX] = ebx;
  registers[REG_RCX] = ecx;
  registers[REG_RDX] = edx;
  registers[REG_RIP] += 2;
  errno = error;
}

bool hide_avx_vnni() {
  struct sigaction action = {};
  action.sa_sigaction = answer;
  action.sa_flags = SA_SIGINFO | SA_ONSTACK;
  sigemptyset(&action.sa_mask);
  if (sigaction(SIGSEGV, &action, &previous) != 0) return false;
  if (allow_cpuid(false)) return true;
  sigaction(SIGSEGV, &previous, nullptr);
  return false;
}

}  // namespace

NB_MODULE(_cpuid, module) {
  module.def("hide_avx_vnni", &hide_avx_vnni,
             "Whether `cpuid` says from now on, in this thread and those it starts, that there is no AVX-VNNI; false where "
             "the system cannot do that.");
  module.def("show_avx_vnni", [] { allow_cpuid(true); }, "`cpuid` tells this thread everything again.");
}
