// Tables of 256 codes for ARMv8.0-A.
#include "elementwise.hpp"
#include "neon.hpp"

namespace oaq::neon {

// Of 16 codes: 64 codes of the table at a time, as a place beyond them gives 0.
void lookup(const std::uint8_t* in, std::uint8_t* out, std::int64_t count, const std::uint8_t* table) {
    uint8x16x4_t parts[4];
    for (int p = 0; p < 4; ++p) parts[p] = vld1q_u8_x4(table + 64 * p);
    std::int64_t i = 0;
    for (; i + 16 <= count; i += 16) {
        uint8x16_t places = vld1q_u8(in + i), codes = vqtbl4q_u8(parts[0], places);
        for (int p = 1; p < 4; ++p) {
            places = vsubq_u8(places, vdupq_n_u8(64));
            codes = vorrq_u8(codes, vqtbl4q_u8(parts[p], places));
        }
        vst1q_u8(out + i, codes);
    }
    elementwise::lookup(in + i, out + i, count - i, table);
}

}  // namespace oaq::neon
