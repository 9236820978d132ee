// Does AMX work here, as a program compiled by this compiler uses it? Exit code 0: it does.
// Compiled and run by amx.py. The configuration is written and loaded as ggml does it.
#include <immintrin.h>
#include <sys/syscall.h>
#include <unistd.h>

constexpr long ASK_PERMISSION = 0x1023;  // ARCH_REQ_XCOMP_PERM
constexpr long TILE_DATA = 18;           // XFEATURE_XTILEDATA

struct Config {
    unsigned char palette, start_row, reserved[14];
    unsigned short row_bytes[16];
    unsigned char rows[16];
};

static void configure() {
    alignas(64) Config config = {};
    config.palette = 1;
    config.rows[0] = 16, config.row_bytes[0] = 64;
    config.rows[1] = 16, config.row_bytes[1] = 64;
    config.rows[2] = 16, config.row_bytes[2] = 64;
    _tile_loadconfig(&config);
}

int main() {
    alignas(64) signed char ones[1024];
    alignas(64) int sums[256];
    for (signed char & one : ones) one = 1;
    if (syscall(SYS_arch_prctl, ASK_PERMISSION, TILE_DATA)) return 2;
    configure();
    _tile_zero(0);
    _tile_loadd(1, ones, 64);
    _tile_loadd(2, ones, 64);
    _tile_dpbssd(0, 1, 2);
    _tile_stored(0, sums, 64);
    _tile_release();
    for (int sum : sums)
        if (sum != 64) return 3;
    return 0;
}
