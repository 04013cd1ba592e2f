"""Every bound of the protocol in one place, each with its reason. Pure constants, no code."""

# --- identity and roster -------------------------------------------------------------------
ROSTER_MAX = 64  # one group (DESIGN section 4); 64 x 54-bit terms still fit the int64 sums
PEER_ID_CHARS_MAX = 64  # an Ed25519 peer id has 52 characters

# --- vectors, shards, pieces ---------------------------------------------------------------
CODEC_BLOCK = 4096  # values a scale; part of the wire format: measured as good as 256 or 1024
SHARD_VALUES_MAX = 131_072  # 128 KiB at int8: two Yamux writes, and a proof costs 1% at most
SHARDS_MAX = 4096  # 536 million parameters at the largest shard
PARAMETERS_MAX = SHARD_VALUES_MAX * SHARDS_MAX

# --- frames --------------------------------------------------------------------------------
CHUNK_BYTES_MAX = 1 << 20  # a data chunk; IPFS tools accept raw blocks of up to 1 MiB
FRAME_BYTES_MAX = CHUNK_BYTES_MAX + (1 << 16)  # one chunk and its header: the largest message

# --- recipes, links, data sets, local files --------------------------------------------------
RECIPE_BYTES_MAX = 1 << 16  # a recipe is a page of text; 64 KiB leaves room for long comments
ROUNDS_MAX = 1_000_000_000  # view numbers stay far below 64 bits
LOCAL_STEPS_MAX = 10_000  # notes of the field stop at H = 1000; a round must end in its hour
BATCH_MAX = 65_536  # batch x steps is the weight of a contribution and must stay a small integer
LAYERS_MAX = 64  # widths in a recipe; an MLP deeper than this does not train without tricks
LAYER_WIDTH_MAX = 1 << 20  # one row of weights then fills 4 MiB
LINK_CHARS_MAX = 8192  # a link is pasted into chats and shells
LINK_PEERS_MAX = 16  # more addresses than this never help a first contact
ADDRESS_CHARS_MAX = 512  # a full multiaddr through a relay has about 250
