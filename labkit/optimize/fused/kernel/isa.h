// The vector operations that all else is written in, chosen when compiling. LK_ISA_<NAME> forces a
// set, so that each can be tested on a machine that has a wider one.
#pragma once
#include <cstdint>

#if defined(LK_ISA_AVX512VNNI)
#include "isa_avx512.h"
#elif defined(LK_ISA_AVX2)
#include "isa_avx2.h"
#elif defined(LK_ISA_NEON)
#include "isa_neon.h"
#elif defined(LK_ISA_PORTABLE)
#include "isa_portable.h"
#elif defined(__AVX512F__) && defined(__AVX512BW__) && defined(__AVX512VNNI__)
#include "isa_avx512.h"
#elif defined(__AVX2__) && defined(__FMA__) && defined(__F16C__)
#include "isa_avx2.h"
#elif defined(__ARM_NEON) && defined(__ARM_FEATURE_DOTPROD)
#include "isa_neon.h"
#else
#include "isa_portable.h"
#endif
