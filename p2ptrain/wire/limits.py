"""Every bound of the protocol in one place, each with its reason. Pure constants, no code."""

# --- identity and roster -------------------------------------------------------------------
COMMITTEE_MAX = 64  # one group (DESIGN section 4); 64 x 54-bit terms still fit the int64 sums
ROSTER_MAX = 16_384  # 10,000 and room; a context of it takes 2 MB, and what a block adds 80 kB
ADMITTED_MAX = COMMITTEE_MAX  # proposers let nobody in beyond: no larger swarm was simulated yet
VOTER_SEATS = 48  # of a drawn committee: quorum and spare; the rest is open to newcomers, too
CALLED_MAX = 128  # answers fill a committee while half of the roster is away; 8192 small messages
RELAY_DEGREE = 8  # copies of a certificate that a peer sends on: 200 kB; see swarm/relaying.py
SEEN_BLOCKS = 2  # whom these showed alive may be drawn: at 10% churn 15% of them are gone by then

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
LAYER_CHARS_MAX = 64  # the longest layer text with all options has 40
WARMUP_STEPS_MAX = 1_000_000_000
KERNEL_MAX = 11  # pixels; AlexNet's first layer, and nobody has gone back to more
STRIDE_MAX = 8
IMAGE_SIDE_MAX = 1024  # pixels; a batch of larger ones does not fit a volunteer's memory
IMAGE_CHANNELS_MAX = 64
PHASES_MAX = 16  # of progressive resizing; each has its own recorded plans
CONTEXT_MAX = 4096  # tokens; attention takes time with its square
BLOCKS_MAX = 64  # of a GPT
HEADS_MAX = 256
VOCABULARY_MAX = 256  # a token is stored as a byte
LINK_CHARS_MAX = 8192  # a link is pasted into chats and shells
LINK_PEERS_MAX = 16  # more addresses than this never help a first contact
ADDRESS_CHARS_MAX = 512  # a full multiaddr through a relay has about 250

# --- connections (protocol/transport.md) -----------------------------------------------------
HELLO_BYTES_MAX = 1 << 14  # versions, ids and a few addresses; a stranger sends it unjudged
REASON_BYTES_MAX = 512  # why a connection ended: one sentence for a person
CONNECTIONS_MAX = 2 * COMMITTEE_MAX  # the whole roster, and as many who join or only watch
GREETINGS_MAX = 32  # strangers in the middle of a handshake: each costs a key exchange
FRAME_OVERHEAD_BYTES = 256  # what an empty frame costs us in memory; it is charged as such
OUTBOX_CONTROL_BYTES_MAX = 1 << 23  # votes and proposals of many views; more means a dead reader
OUTBOX_BULK_BYTES_MAX = 1 << 26  # 64 chunks: half a second of a gigabit link
INBOX_BYTES_PER_PEER_MAX = 1 << 25  # half of INBOX_BYTES_MAX, which is what one alone can get
BYTES_PER_PEER_PER_S = 1 << 27  # what a gigabit link carries; faster for long is a flood
BYTES_PER_PEER_BURST = 1 << 30  # a whole model or data set on loopback may come faster
HANDSHAKE_TIMEOUT_S = 10.0  # 4 round trips; a satellite link needs about 3 s
PING_INTERVAL_S = 5.0  # keeps NAT mappings alive (30 s at the least) and finds dead peers
PING_TIMEOUT_S = 20.0  # four pings in silence; an overloaded laptop may pause for 10 s
WRITE_TIMEOUT_S = 20.0  # 64 KiB in 20 s is 26 kbit/s: slower links cannot train
DRAIN_TIMEOUT_S = 60.0  # a full outbox must empty by half: 32 MiB in 60 s is 4.5 Mbit/s
GOODBYE_TIMEOUT_S = 1.0  # for the last words to arrive; then the line is cut

# What one peer may cost, and all together (protocol/transport.md section 5). The largest honest use
# is a contribution of SHARDS_MAX shards, all of it at once, and an asker with 8 answers on the way.
FRAMES_PER_PEER_PER_S = 2000  # a contribution of 2000 shards each second; 10 % of a core at most
FRAMES_PER_PEER_BURST = 4 * SHARDS_MAX  # one contribution, relayed for three that lost theirs
INBOX_BYTES_MAX = 1 << 26  # of all peers: one alone gets half of it, 128 of them 512 KiB each
OUTBOX_BYTES_MAX = 1 << 28  # likewise: 63 voters are sent 4 MiB each at once, or 3 of them 64
UNREAD_BYTES_MAX = 1 << 26  # in Yamux, of all connections, where one has more than the next line
UNREAD_BYTES_FREE = 1 << 20  # what a lane is read by at once: readers that keep up hold no more
WINDOW_BYTES_MAX = 1 << 22  # a Yamux stream's: 40 MB/s to a peer 100 ms away
PAUSE_S_MAX = 2.0  # a lane is not read while its peer's share is full; libp2p gives up after 5
GREETINGS_PER_PEER_PER_S = 0.5  # honest peers dial again after 0.5, 1, 2, 4 s and ever slower
GREETINGS_PER_PEER_BURST = 16  # restarts, networks that come and go, two that dial at once
KNOCKS_PER_ADDRESS_PER_S = 10  # TCP connections of one address: 15 ms each for keys and streams
KNOCKS_PER_ADDRESS_BURST = 256  # a whole roster behind one router, dialling at once, four times
KNOCKING_PER_ADDRESS_MAX = 16  # of one address before they are greeted; half of all GREETINGS_MAX
CONNECTIONS_PER_ADDRESS_MAX = COMMITTEE_MAX  # a roster behind one router; half of all places
ADDRESSES_REMEMBERED = 4096  # addresses whose knocks are counted; 200 bytes each
STREAMS_MAX = 32  # that a peer may open on one connection: our two, and those of libp2p itself
SERVED_BYTES_WAITING_MAX = 1 << 24  # answers in an outbox: 8 of 1 MiB honestly, and some pieces
SERVED_BYTES_PER_S = 1 << 27  # to one peer, each asking by 50 bytes: what a gigabit link carries
SERVED_BYTES_BURST = 1 << 30  # as BYTES_PER_PEER_BURST: an honest asker takes no more than it may
STATE_READS_PER_S = 0.1  # of states that are not in memory: a joiner needs one, and it stays there
STATE_READS_BURST = 8  # as many as there are checkpoints to choose from, twice
STATES_CACHED_BYTES = 1 << 26  # all states that can be asked for, if they are small; else two
SIGNATURES_PER_PEER_PER_S = 1000  # 0.1 ms each; a certificate of 64 voters each 64 ms
SIGNATURES_PER_PEER_BURST = 1 << 14  # pages of headers while catching up: 8 of 2048
STEPS_BYTES_MAX = 1 << 26  # of messages that wait for one machine, all peers; one alone: half
STEP_OVERHEAD_BYTES = 1 << 13  # charged for each: 64 members still find room for 100 messages each

# --- messages ------------------------------------------------------------------------------
SIGNATURE_BYTES = 64  # Ed25519
WEIGHT_MAX = BATCH_MAX * LOCAL_STEPS_MAX  # samples behind one contribution
TEXT_BYTES_MAX = 1024  # one text, where no smaller bound is named: an address, a reason
PEER_IDS_CACHED = 4096  # checked peer ids remembered by the decoder: 64 rosters, under 1 MB
SIGNATURES_CACHED = 16_384  # verified signatures remembered: a view of 64 has under 1000; 2 MB
KEYS_CACHED = 1024  # parsed public keys remembered: every peer of 16 full rosters
STATE_PIECE_BYTES = 1 << 18  # a state of 10 MB in 40 pieces: enough to share among donors
STATE_PIECES_MAX = 1 << 16  # 16 GiB: parameters and momentum at PARAMETERS_MAX, with room
PROOF_MAX = 16  # hashes on a Merkle path: 2**16 leaves
HEADERS_MAX = 32  # certificates a page: 25 kB each at the most, so a page always fits one frame
CHANGES_PER_BLOCK_MAX = 16  # joins, and leaves: so 64 Timeouts with a block each fit one frame
KNOWN_MAX = 64  # digests that name a chain, spaced ever wider: 2**63 blocks
STATES_MAX = 64  # states that a Tip offers: those since the last final block, and pinned ones
TOPICS_MAX = 64  # swarms and data sets that one Hello names
ADDRESSES_MAX = 16  # listen addresses of one peer
CONTACTS_MAX = 64  # peers told at once: one roster
SHARDS_ASKED_MAX = 256  # shards named in one request: 32 MiB of answers at the most

# --- the store of one peer -------------------------------------------------------------------
CHECKPOINT_SECTION_BYTES_MAX = 16 * PARAMETERS_MAX  # parameters, momentum, feedback: float32 each
CHECKPOINTS_KEPT = 4  # a torn newest file, the last final block, and room between the two
DURABLE_BYTES_MAX = PARAMETERS_MAX + (1 << 24)  # a whole contribution at int8 and its scales
TRANSCRIPT_PAYLOAD_BYTES_MAX = 1 << 24  # a certificate of 64 votes and its block stay under 64 KiB

# --- data sets -------------------------------------------------------------------------------
DATASET_BYTES_MAX = 1 << 33  # seeding holds the records in memory twice: 16 GiB at the most
DATASET_FILES_MAX = 64  # in a folder of IDX files: two a split
MANIFEST_BYTES_MAX = CHUNK_BYTES_MAX  # so a manifest is a block like any other: 15,000 chunks
MANIFEST_CHUNKS_MAX = 1 << 14  # 16 GiB of data; larger sets need a tree of manifests
RECORD_DIMENSIONS_MAX = 8  # video with channels has 4
CLASSES_MAX = 1 << 16  # labels then fit two bytes
LICENCE_CHARS_MAX = 128  # an SPDX expression
WINDOW_CHUNKS = 64  # chunks that a peer draws its samples from; smaller sets are used whole

# --- averaging -------------------------------------------------------------------------------
LIMIT_ROUNDS = 8  # rounds that the norm limit looks back on (DESIGN section 4, rule 4)
ABSURD_NORM2_RATIO = 1 << 20  # 1024 times the limit's norm: honest norms change 10-fold in 8 rounds
JOIN_AGE_BLOCKS_MAX = 32  # a Join or Leave older than this many blocks proves no present wish
JOINS_PENDING_MAX = COMMITTEE_MAX  # a block takes no more; who is turned away asks again
VIEW_MAX = 1 << 62  # a billion rounds, each with a billion timeouts; and below 63 bits
EARLY_COMMITS_MAX = COMMITTEE_MAX  # commits for a block not seen yet: one a member
TIMEOUTS_PER_VOTER_MAX = 4  # views of one voter remembered: its newest, and some on the way
REVEALS_CHECKPOINT = 256  # hashes recomputed at most to find a preimage in a hash chain
COMMITS_PER_PEER_MAX = 4  # of a proven liar, where proposals name them: see contributions.py
BLOCKS_PER_PARENT_MAX = 16  # proposed blocks remembered: a proposer a view, most are repeated
VOTES_PER_VOTER_MAX = 4  # views of one voter whose votes are counted: its newest
DURATIONS_KEPT = 8  # views whose durations set deadlines: enough to outvote three odd ones

# Peers of which two statements that exclude one another are kept, to show and to refuse them.
PROOFS_MAX = 256  # only members are convicted, and a roster takes in 16 a block; the oldest go

# --- one node ----------------------------------------------------------------------------------
PROTOCOL_VERSION = 1  # of messages and rules; peers of another number are refused
STRIKES_MAX = 16  # protocol errors of one peer in a run; a bug or a liar, not bad luck
COMPUTE_RESTARTS_MAX = 8  # deaths of the compute process in that time: the driver is to blame
COMPUTE_DEATHS_WITHIN_S = 3600.0  # a run of weeks may see a death now and then (memory runs short)
CANDIDATES_MAX = 4  # reduced blocks that wait for a certificate: re-proposals of one parent
REDUCED_BYTES_KEPT = 1 << 27  # reduced shards for those who follow: 64 rounds of 2M parameters
REDUCED_BLOCKS_KEPT = 64  # of a small network, too: who is further behind fetches a whole state
STATES_CACHED = 2  # states being served: the newest, and the one that joiners began with
REDUCED_CACHED = 1024  # blocks whose Merkle paths are kept: of small ones all that are served
REVEALS_MAX = 1 << 20  # points of a hash chain: 1 s to compute; a longer run joins again
REVEALS_SPARE = 1 << 10  # for contributions that were revealed and not certified
PARENTS_REMEMBERED = 64  # blocks that we contributed to: never twice to one, even after a switch
PEERS_REMEMBERED = 256  # peers that were helped lately: four full rosters
RULE_STEPS_MAX = 10_000  # steps in which one input must settle: a round of 64 takes some hundreds

# --- weights to start from (protocol/data.md section 5) ------------------------------------------
WEIGHT_BLOCKS_MAX = PARAMETERS_MAX * 4 // CHUNK_BYTES_MAX  # the largest network in float32
WEIGHT_TENSORS_MAX = 16 * LAYERS_MAX  # a residual block or one of a GPT has 9 to 16
TENSOR_NAME_CHARS_MAX = 64  # layer63.weight has 14; room for other networks
TENSOR_DIMENSIONS_MAX = 8  # a convolution over volumes has 5
OWN_STATE_BYTES_MAX = 16 * PARAMETERS_MAX  # a residual and two moments, float32 each, with room
SAFETENSORS_HEADER_BYTES_MAX = 1 << 24  # 100,000 tensors; the format itself allows 100 MB

# --- finding peers -----------------------------------------------------------------------------
DIALS_MAX = 16  # peers dialled at once: each costs a socket and a key exchange
DIALS_HEARSAY_MAX = 8  # of these, peers that only others have named: half is kept for the known
ADDRESSES_A_TURN = 4  # tried one after the other before the next peer's turn: 20 s at the most

# --- the local API (node/local_api.py) -----------------------------------------------------------
API_REQUEST_BYTES_MAX = 1 << 12  # a name and a few arguments
API_ANSWER_BYTES_MAX = 1 << 20  # a status with 192 peers and their addresses has about 200 kB
API_CLIENTS_MAX = 8  # a shell, a page, a few scripts
API_IDLE_S = 60.0  # a client that asks for nothing gives its place to another
API_WRITE_TIMEOUT_S = 5.0  # one that does not read its answer, too
API_PACE_S = 0.03  # between two answers: a status of 128 peers takes 3 ms, so a tenth of a core
PEERS_RECALLED = 32  # of each topic, from earlier runs: a quarter of the dials that are kept
ADDRESSES_REMEMBERED = 8192  # rows of the address book: eight full rosters, each with 16; 2 MB
ADDRESS_AGE_DAYS_MAX = 90  # who was not met for a season has moved
ADDRESS_FAILURES_MAX = 64  # failures in a row, at a restart: half an hour of trying, or more
LISTEN_PORTS_REMEMBERED = 64  # listen addresses whose ports are kept: nobody uses more
NOTES_WAITING_MAX = 4096  # for the address book, while the disk is slow; more are not written
STRIKES_PEERS_MAX = 4096  # peers whose faults are counted: who makes more keys is let in again
MDNS_PEERS_MAX = 64  # announcements looked at on this network at once: one roster
MDNS_TOPICS_MAX = 12  # topics that one announcement names: one TXT string holds 255 bytes

# --- what a restart goes on from -------------------------------------------------------------
REDUCED_FILES_KEPT = 16  # blocks reduced lately: every proposal of one parent that is remembered
SET_ASIDE_MAX = 64  # damaged files of one name that are kept; a disk that fails more is dead

# --- the devices command ----------------------------------------------------------------------
LISTING_TIMEOUT_S = 60.0  # loading every driver of a machine takes under a second; a cold disk 20
SELFTEST_TIMEOUT_S = 180.0  # under 2 s on a CPU, 33 s on a loaded machine; a simulator takes longer
ANSWER_BYTES_MAX = 1 << 24  # a device is 2 kB of JSON; what a driver prints is cut here too
SIT_OUT_VIEWS_MAX = 64  # failed views in a row that a forgetful peer believes in: an hour of 60 s

# --- codecs ------------------------------------------------------------------------------------
TOPK_KEPT = (32, 64, 128, 256, 512)  # of 4096: fewer starve a short run, more cost as much as int2
CODEC_NUMBERS = (2, 4, 8, *(CODEC_BLOCK + kept for kept in TOPK_KEPT))  # codecs.md, Parameters
WARMUP_CODEC_NUMBER = 8  # int8: as exact as float32 in every test, while the state moves most

# --- the grid (swarm/grid.py) --------------------------------------------------------------------
GRID_ROW_MAX = 32  # members of a row: a longer one buys nothing where 3% are away, and costs more

# --- announcements (protocol/announcements.md) ---------------------------------------------------
ANNOUNCEMENT_BYTES_MAX = 1024  # signed; the fields' bounds below keep even the longest under it
ADDRESSES_ANNOUNCED_MAX = 4  # more help nobody: ADDRESSES_A_TURN are tried
ANNOUNCED_ADDRESS_CHARS_MAX = 128  # IPv6 and a peer id have 110; a relay's stays in the hello
AGENT_ANNOUNCED_CHARS_MAX = 32  # "p2ptrain/0.1.0", and room for a longer name
ANNOUNCE_EVERY_MS_MAX = 60_000  # who speaks less than once a minute is not there
ANNOUNCED_PEERS_MAX = 1024  # remembered: 16 rosters, under 2 MB; members and the connected first
ANNOUNCED_SEQUENCES_MAX = 4096  # of peers forgotten: an old announcement must not wake a dead one
ANNOUNCED_MAX = 64  # in one message: a roster; 45 kB at the most
ANNOUNCED_ASKED_MAX = 256  # sequences named in one request: 5 kB
ANNOUNCE_SKEW_MS_MAX = 86_400_000  # between clocks: a machine without a set clock is left out
ANNOUNCED_PER_PEER_PER_S = 4  # messages; honest peers send their own each second, and answers
ANNOUNCED_PER_PEER_BURST = 32  # a link that stood still delivers half a minute at once

# --- pace of local steps (swarm/pace.py) ----------------------------------------------------------
PACE_ROUNDS_KEPT = 5  # a peer's speed is the median of so many: laptops throttle within minutes
