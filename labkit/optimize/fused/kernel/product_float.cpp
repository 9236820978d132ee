#include "tiles.h"

namespace lk {

template int dot_tile<kF16>(F*, const uint8_t*, const Activations&, int, int);
template int dot_tile<kBF16>(F*, const uint8_t*, const Activations&, int, int);
template int dot_tile<kF32>(F*, const uint8_t*, const Activations&, int, int);

} // namespace lk
