// The usual way of int8 runtimes on ARM without dot-product instructions, for `arm.py` to compare with: two products of 8
// bits in 16 (smull, smlal2), which fit where no weight is -128, then added in pairs to 32 bits (sadalp). Written for this
// page; 4 rows meet 4 columns, 16 deep, so that all sums and operands stay in registers.
#include <arm_neon.h>

#include <cstdint>

extern "C" void usual(const std::int8_t* rows, const std::int8_t* columns, int depth, std::int32_t* out) {
    int32x4_t sums[4][4];
    for (auto& row : sums)
        for (auto& sum : row) sum = vdupq_n_s32(0);
    for (int k = 0; k < depth; k += 16, rows += 64, columns += 64) {
        int8x16_t x[4], w[4];
        for (int i = 0; i < 4; ++i) {
            x[i] = vld1q_s8(rows + 16 * i);
            w[i] = vld1q_s8(columns + 16 * i);
        }
        for (int i = 0; i < 4; ++i)
            for (int j = 0; j < 4; ++j) {
                int16x8_t two = vmull_s8(vget_low_s8(x[i]), vget_low_s8(w[j]));
                two = vmlal_high_s8(two, x[i], w[j]);
                sums[i][j] = vpadalq_s16(sums[i][j], two);
            }
    }
    for (int i = 0; i < 4; ++i)
        for (int j = 0; j < 4; ++j) out[4 * i + j] = vaddvq_s32(sums[i][j]);
}
