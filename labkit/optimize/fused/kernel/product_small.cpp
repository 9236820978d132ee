#include "tiles.h"

namespace lk {

template int dot_tile<kQ4_1>(F*, const uint8_t*, const Activations&, int, int);
template int dot_tile<kQ4_0>(F*, const uint8_t*, const Activations&, int, int);
template int dot_tile<kQ8_0>(F*, const uint8_t*, const Activations&, int, int);
template int dot_tile<kQ5_0>(F*, const uint8_t*, const Activations&, int, int);
template int dot_tile<kQ5_1>(F*, const uint8_t*, const Activations&, int, int);

} // namespace lk
