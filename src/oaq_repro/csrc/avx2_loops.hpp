// Inner loops of the dense AVX2 kernels, as assembly: GCC (12, 13) otherwise loads the codes of all pixels ahead and spills
// the accumulators, at half the speed.
#pragma once

#include <cstddef>

#include "avx2.hpp"

namespace oaq::avx2 {

alignas(32) inline constexpr std::int16_t kOnes[16] = {1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1};

enum class Loop { kHalves, kPairs, kExact };  // what is added in a step

// A step of one pixel and two vectors: low and high += codes * weights. Two scratch registers, so that 12 accumulators and
// 2 weight vectors fit.
#define OAQ_STEP(multiply, add, in, w0, w1, a, b, low, high) \
    "vpbroadcastd " in ", " b "\n\t"                         \
    multiply " " w0 ", " b ", " a "\n\t"                     \
    multiply " " w1 ", " b ", " b "\n\t"                     \
    add " " a ", " low ", " low "\n\t"                       \
    add " " b ", " high ", " high "\n\t"
#define OAQ_ADD_STEP(multiply, add)                                                             \
    asm(OAQ_STEP(multiply, add, "%[in]", "%[w0]", "%[w1]", "%[a]", "%[b]", "%[low]", "%[high]") \
        : [low] "+x"(acc[0]), [high] "+x"(acc[1]), [a] "=&x"(a), [b] "=&x"(b)                   \
        : [in] "m"(at<kStep>(in)), [w0] "x"(w0), [w1] "x"(w1))

template <Loop S>
OAQ_INLINE void add_step(__m256i (&acc)[2], const std::uint8_t* in, __m256i w0, __m256i w1) {
    __m256i a, b;
    if constexpr (S == Loop::kExact) {
        OAQ_ADD_STEP("vpmaddwd", "vpaddd");
    } else {
        OAQ_ADD_STEP("vpmaddubsw", "vpaddw");
    }
}

template <Loop S>
OAQ_INLINE __m256i load_weights(const std::int8_t* w) {
    if constexpr (S == Loop::kExact)
        return _mm256_cvtepi8_epi16(_mm_loadu_si128(reinterpret_cast<const __m128i*>(w)));
    else
        return load(w);
}

// From the weights that are multiplied to those that will be next.
OAQ_INLINE std::ptrdiff_t ahead_of(const DenseBlock& block) {
    return reinterpret_cast<std::intptr_t>(block.next) - reinterpret_cast<std::intptr_t>(block.weights);
}

static_assert(offsetof(Run, steps) == 4 && offsetof(Run, pairs) == 8 && sizeof(Run) == 12);

// Registers of OAQ_SUM_RUNS: a vector has the halves of 8 channels (16-bit sums), their sums (32 bits), or 16 sums (pairs).
//
//                             weights  ymm12    ymm13     of channels 0-7 and 8-15 (pairs: 0-15 and 16-31)
//   codes of a step, broadcast       \     |        |
//   r8 + rax    pixel 0    ymm15            l0       h0    first product in ymm14, second in ymm15
//   r9 + rax    pixel 1    ymm15            l1       h1
//   r10 + rax   pixel 2    ymm15            l2       h2
//   r11 + rax   pixel 3    ymm15            l3       h3
//   r12 + rax   pixel 4    ymm15            l4       h4
//   r13 + rax   pixel 5    ymm15            l5       h5    l0 to h5: twelve of ymm0 to ymm11
//
// The loops along all runs for 6 pixels and two vectors, as one piece that takes all registers: given the loops, GCC spills
// some of them. `ends` makes of a run, whose offset is in rax, the bytes from rax to rcx of every pixel. rax goes on by `codes`
// bytes; weights are loaded from twice `bytes`. Those that stand rdx bytes further on will be next, and are fetched into the
// L2 cache.
#define OAQ_PIXEL(multiply, add, pointer, low, high)                                                                    \
    OAQ_STEP(multiply, add, "(%%" pointer ",%%rax)", "%%ymm12", "%%ymm13", "%%ymm14", "%%ymm15", "%[" low "]",          \
             "%[" high "]")
#define OAQ_SUM_RUNS(load, bytes, multiply, add, codes, ends)                                                           \
    asm("mov 8(%[bounds]), %%rdx\n\t"                                                                                   \
        "mov (%[in]), %%r8\n\t"                                                                                         \
        "mov 8(%[in]), %%r9\n\t"                                                                                        \
        "mov 16(%[in]), %%r10\n\t"                                                                                      \
        "mov 24(%[in]), %%r11\n\t"                                                                                      \
        "mov 32(%[in]), %%r12\n\t"                                                                                      \
        "mov 40(%[in]), %%r13\n"                                                                                        \
        "1:\n\t"                                                                                                        \
        "movslq (%[run]), %%rax\n\t"                                                                                    \
        ends                                                                                                            \
        ".p2align 5\n"                                                                                                  \
        "2:\n\t"                                                                                                        \
        load " (%[w]), %%ymm12\n\t"                                                                                     \
        load " " #bytes "(%[w]), %%ymm13\n\t"                                                                           \
        "prefetcht1 (%[w],%%rdx)\n\t"                                                                                   \
        OAQ_PIXEL(multiply, add, "r8", "l0", "h0") OAQ_PIXEL(multiply, add, "r9", "l1", "h1")                           \
        OAQ_PIXEL(multiply, add, "r10", "l2", "h2") OAQ_PIXEL(multiply, add, "r11", "l3", "h3")                         \
        OAQ_PIXEL(multiply, add, "r12", "l4", "h4") OAQ_PIXEL(multiply, add, "r13", "l5", "h5")                         \
        "add $2*" #bytes ", %[w]\n\t"                                                                                   \
        "add $" #codes ", %%rax\n\t"                                                                                    \
        "cmp %%rcx, %%rax\n\t"                                                                                          \
        "jl 2b\n\t"                                                                                                     \
        "add $12, %[run]\n\t"                                                                                           \
        "cmp (%[bounds]), %[run]\n\t"                                                                                   \
        "jne 1b"                                                                                                        \
        : [l0] "+x"(acc[0][0]), [h0] "+x"(acc[0][1]), [l1] "+x"(acc[1][0]), [h1] "+x"(acc[1][1]), [l2] "+x"(acc[2][0]), \
          [h2] "+x"(acc[2][1]), [l3] "+x"(acc[3][0]), [h3] "+x"(acc[3][1]), [l4] "+x"(acc[4][0]), [h4] "+x"(acc[4][1]), \
          [l5] "+x"(acc[5][0]), [h5] "+x"(acc[5][1]), [run] "+r"(run), [w] "+r"(w)                                      \
        : [in] "r"(in), [bounds] "r"(&bounds)                                                                           \
        : "rax", "rcx", "rdx", "r8", "r9", "r10", "r11", "r12", "r13", "xmm12", "xmm13", "xmm14", "xmm15", "cc", "memory")

// acc += codes * weights along all runs of 6 pixels.
template <Loop S>
OAQ_INLINE void sum_runs(__m256i (&acc)[6][2], const std::uint8_t* const* in, const Run* run, int runs,
                         const std::int8_t* w, std::ptrdiff_t ahead) {
    const struct {
        const Run* last;
        std::ptrdiff_t ahead;
    } bounds{run + runs, ahead};  // an asm may have no more operands
    if constexpr (S == Loop::kHalves) {
        OAQ_SUM_RUNS("vmovdqu", 32, "vpmaddubsw", "vpaddw", 4,
                     "movslq 4(%[run]), %%rcx\n\t"
                     "lea (%%rax,%%rcx,4), %%rcx\n\t");
    } else if constexpr (S == Loop::kPairs) {
        OAQ_SUM_RUNS("vmovdqu", 32, "vpmaddubsw", "vpaddw", 2,
                     "movslq 8(%[run]), %%rcx\n\t"
                     "lea (%%rax,%%rcx,2), %%rcx\n\t"
                     "sub $2, %%rax\n\t");
    } else {
        OAQ_SUM_RUNS("vpmovsxbw", 16, "vpmaddwd", "vpaddd", 4,
                     "movslq 8(%[run]), %%rcx\n\t"
                     "lea (%%rax,%%rcx,2), %%rcx\n\t"
                     "add %%rcx, %%rcx\n\t"
                     "add %%rax, %%rax\n\t");
    }
}

// The same along a run, the bytes from k to `end`, of any number of pixels.
template <Loop S, int R>
OAQ_INLINE void sum_run(__m256i (&acc)[R][2], const std::uint8_t* const* in, std::ptrdiff_t k, std::ptrdiff_t end,
                        const std::int8_t*& w, std::ptrdiff_t ahead) {
    constexpr int kBytes = S == Loop::kExact ? 16 : 32;  // of a vector's weights
    do {
        const __m256i w0 = load_weights<S>(w), w1 = load_weights<S>(w + kBytes);
        asm volatile("prefetcht1 (%[w],%[ahead])" : : [w] "r"(w), [ahead] "r"(ahead));
        each<R>([&](auto r) OAQ_LAMBDA { add_step<S>(acc[r], in[r] + k, w0, w1); });
        w += 2 * kBytes;
    } while ((k += S == Loop::kPairs ? 2 : 4) < end);
}

// Registers of OAQ_FOLD_RUNS:
//
//                          weights  ymm12         ymm13
//   codes of a step, broadcast        |             |
//   r8 + rax    pixel 0    ymm15     ymm6  -> l0   ymm7  -> h0    halves of 16 bits go to sums of 32, l0 to h2: six of
//   r9 + rax    pixel 1    ymm15     ymm8  -> l1   ymm9  -> h1    ymm0 to ymm5
//   r10 + rax   pixel 2    ymm15     ymm10 -> l2   ymm11 -> h2
//
// The same loops for 3 pixels, whose sums wrap in 16 bits (halves, ymm6 to ymm11) for S steps and then go to 32: blocks of S
// steps up to rdx, then what is left of the run up to rcx; `ahead` is what rdx is there.
#define OAQ_FIRST(in, low, high)                                                                                        \
    "vpbroadcastd (%%" in ",%%rax), " high "\n\t"                                                                       \
    "vpmaddubsw %%ymm12, " high ", " low "\n\t"                                                                         \
    "vpmaddubsw %%ymm13, " high ", " high "\n\t"
#define OAQ_NEXT(in, at, low, high)                                                                                     \
    OAQ_STEP("vpmaddubsw", "vpaddw", at "(%%" in ",%%rax)", "%%ymm12", "%%ymm13", "%%ymm14", "%%ymm15", low, high)
#define OAQ_FIRST_STEP                                                                                                  \
    "vmovdqu (%[w]), %%ymm12\n\t"                                                                                       \
    "vmovdqu 32(%[w]), %%ymm13\n\t"                                                                                     \
    "prefetcht1 (%[w],%[ahead])\n\t"                                                                                    \
    OAQ_FIRST("r8", "%%ymm6", "%%ymm7") OAQ_FIRST("r9", "%%ymm8", "%%ymm9") OAQ_FIRST("r10", "%%ymm10", "%%ymm11")
#define OAQ_NEXT_STEP(s)                                                                                                \
    "vmovdqu 64*" #s "(%[w]), %%ymm12\n\t"                                                                              \
    "vmovdqu 64*" #s "+32(%[w]), %%ymm13\n\t"                                                                           \
    "prefetcht1 64*" #s "(%[w],%[ahead])\n\t"                                                                           \
    OAQ_NEXT("r8", "4*" #s, "%%ymm6", "%%ymm7") OAQ_NEXT("r9", "4*" #s, "%%ymm8", "%%ymm9")                             \
    OAQ_NEXT("r10", "4*" #s, "%%ymm10", "%%ymm11")
#define OAQ_SPILL(half, acc)                                                                                            \
    "vpmaddwd %[ones], " half ", " half "\n\t"                                                                          \
    "vpaddd " half ", " acc ", " acc "\n\t"
#define OAQ_SPILL_ALL                                                                                                   \
    OAQ_SPILL("%%ymm6", "%[l0]") OAQ_SPILL("%%ymm7", "%[h0]") OAQ_SPILL("%%ymm8", "%[l1]")                              \
    OAQ_SPILL("%%ymm9", "%[h1]") OAQ_SPILL("%%ymm10", "%[l2]") OAQ_SPILL("%%ymm11", "%[h2]")
#define OAQ_STEPS_2 OAQ_NEXT_STEP(1)
#define OAQ_STEPS_4 OAQ_STEPS_2 OAQ_NEXT_STEP(2) OAQ_NEXT_STEP(3)
#define OAQ_STEPS_8 OAQ_STEPS_4 OAQ_NEXT_STEP(4) OAQ_NEXT_STEP(5) OAQ_NEXT_STEP(6) OAQ_NEXT_STEP(7)
#define OAQ_STEPS_16                                                                                                    \
    OAQ_STEPS_8 OAQ_NEXT_STEP(8) OAQ_NEXT_STEP(9) OAQ_NEXT_STEP(10) OAQ_NEXT_STEP(11) OAQ_NEXT_STEP(12)                 \
    OAQ_NEXT_STEP(13) OAQ_NEXT_STEP(14) OAQ_NEXT_STEP(15)
#define OAQ_FOLD_RUNS(fold)                                                                                             \
    asm("mov (%[in]), %%r8\n\t"                                                                                         \
        "mov 8(%[in]), %%r9\n\t"                                                                                        \
        "mov 16(%[in]), %%r10\n"                                                                                        \
        "1:\n\t"                                                                                                        \
        "movslq (%[run]), %%rax\n\t"                                                                                    \
        "movslq 4(%[run]), %%rcx\n\t"                                                                                   \
        "lea (%%rax,%%rcx,4), %%rcx\n\t"                                                                                \
        "lea -4*" #fold "(%%rcx), %%rdx\n\t"                                                                            \
        "cmp %%rdx, %%rax\n\t"                                                                                          \
        "jg 3f\n\t"                                                                                                     \
        ".p2align 5\n"                                                                                                  \
        "2:\n\t"                                                                                                        \
        OAQ_FIRST_STEP OAQ_STEPS_##fold OAQ_SPILL_ALL                                                                   \
        "add $64*" #fold ", %[w]\n\t"                                                                                   \
        "add $4*" #fold ", %%rax\n\t"                                                                                   \
        "cmp %%rdx, %%rax\n\t"                                                                                          \
        "jle 2b\n"                                                                                                      \
        "3:\n\t"                                                                                                        \
        "cmp %%rcx, %%rax\n\t"                                                                                          \
        "je 6f\n\t"                                                                                                     \
        OAQ_FIRST_STEP                                                                                                  \
        "jmp 5f\n"                                                                                                      \
        "4:\n\t"                                                                                                        \
        OAQ_NEXT_STEP(0)                                                                                                \
        "5:\n\t"                                                                                                        \
        "add $64, %[w]\n\t"                                                                                             \
        "add $4, %%rax\n\t"                                                                                             \
        "cmp %%rcx, %%rax\n\t"                                                                                          \
        "jl 4b\n\t"                                                                                                     \
        OAQ_SPILL_ALL                                                                                                   \
        "6:\n\t"                                                                                                        \
        "add $12, %[run]\n\t"                                                                                           \
        "cmp %[last], %[run]\n\t"                                                                                       \
        "jne 1b"                                                                                                        \
        : [l0] "+x"(acc[0][0]), [h0] "+x"(acc[0][1]), [l1] "+x"(acc[1][0]), [h1] "+x"(acc[1][1]), [l2] "+x"(acc[2][0]), \
          [h2] "+x"(acc[2][1]), [run] "+r"(run), [w] "+r"(w)                                                            \
        : [in] "r"(in), [last] "rm"(run + runs), [ahead] "r"(ahead),                                                    \
          [ones] "m"(*reinterpret_cast<const __m256i*>(kOnes))                                                          \
        : "rax", "rcx", "rdx", "r8", "r9", "r10", "xmm6", "xmm7", "xmm8", "xmm9", "xmm10", "xmm11", "xmm12", "xmm13",   \
          "xmm14", "xmm15", "cc", "memory")

template <int S>
OAQ_INLINE void fold_runs(__m256i (&acc)[3][2], const std::uint8_t* const* in, const Run* run, int runs,
                          const std::int8_t* w, std::ptrdiff_t ahead) {
    static_assert(S == 2 || S == 4 || S == 8 || S == 16);
    if constexpr (S == 2) {
        OAQ_FOLD_RUNS(2);
    } else if constexpr (S == 4) {
        OAQ_FOLD_RUNS(4);
    } else if constexpr (S == 8) {
        OAQ_FOLD_RUNS(8);
    } else {
        OAQ_FOLD_RUNS(16);
    }
}

#undef OAQ_FOLD_RUNS
#undef OAQ_STEPS_16
#undef OAQ_STEPS_8
#undef OAQ_STEPS_4
#undef OAQ_STEPS_2
#undef OAQ_SPILL_ALL
#undef OAQ_SPILL
#undef OAQ_NEXT_STEP
#undef OAQ_FIRST_STEP
#undef OAQ_NEXT
#undef OAQ_FIRST
#undef OAQ_SUM_RUNS
#undef OAQ_PIXEL
#undef OAQ_ADD_STEP
#undef OAQ_STEP

// halves = codes * weights.
OAQ_INLINE void set_products(__m256i (&halves)[2], const std::uint8_t* in, __m256i w0, __m256i w1) {
    asm("vpbroadcastd %[in], %[h1]\n\t"
        "vpmaddubsw %[w0], %[h1], %[h0]\n\t"
        "vpmaddubsw %[w1], %[h1], %[h1]"
        : [h0] "=&x"(halves[0]), [h1] "=&x"(halves[1])
        : [in] "m"(at<kStep>(in)), [w0] "x"(w0), [w1] "x"(w1));
}

// acc += the pairs' sums in 32 bits, where halves are needed no more.
OAQ_INLINE void spill(__m256i (&acc)[2], __m256i (&halves)[2]) {
    asm("vpmaddwd %[ones], %[h0], %[h0]\n\t"
        "vpmaddwd %[ones], %[h1], %[h1]\n\t"
        "vpaddd %[h0], %[a0], %[a0]\n\t"
        "vpaddd %[h1], %[a1], %[a1]"
        : [a0] "+x"(acc[0]), [a1] "+x"(acc[1]), [h0] "+x"(halves[0]), [h1] "+x"(halves[1])
        : [ones] "m"(*reinterpret_cast<const __m256i*>(kOnes)));
}

}  // namespace oaq::avx2
