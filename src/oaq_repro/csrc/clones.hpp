// OAQ_CLONES: the compiler makes one version of a function per instruction set and picks at load time; results are the
// same. Code that picks would run before a sanitizer is ready.
#pragma once

#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__) && !defined(__SANITIZE_ADDRESS__) && \
    !defined(__SANITIZE_THREAD__)
#define OAQ_CLONES __attribute__((target_clones("avx2", "default")))
#else
#define OAQ_CLONES
#endif
