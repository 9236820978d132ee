#include "tiles.h"

namespace lk {

template int dot_tile<kQ3_K>(F*, const uint8_t*, const Activations&, int, int);
template int dot_tile<kQ2_K>(F*, const uint8_t*, const Activations&, int, int);
template int dot_tile<kIQ4_NL>(F*, const uint8_t*, const Activations&, int, int);
template int dot_tile<kIQ4_XS>(F*, const uint8_t*, const Activations&, int, int);

} // namespace lk
