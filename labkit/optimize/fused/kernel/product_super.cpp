#include "tiles.h"

namespace lk {

template int dot_tile<kQ4_K>(F*, const uint8_t*, const Activations&, int, int);
template int dot_tile<kQ5_K>(F*, const uint8_t*, const Activations&, int, int);
template int dot_tile<kQ6_K>(F*, const uint8_t*, const Activations&, int, int);

} // namespace lk
