// GCC 12.2 and others compile _tile_loadconfig wrongly: their header says that the instruction reads
// 8 of the 64 bytes, so the optimizer may drop the stores of the others
// (https://gcc.gnu.org/bugzilla/show_bug.cgi?id=114098). The tiles then have no rows, and the next
// tile instruction is illegal. Here it is with the right operand; other GCCs lose nothing by it.
#if defined(__AMX_TILE__) && defined(__GNUC__) && !defined(__clang__)
#include <immintrin.h>
#undef _tile_loadconfig
#define _tile_loadconfig(config) \
    __asm__ volatile("ldtilecfg %0" ::"m"(*(const char(*)[64])(config)))
#endif
