-- Reads an entity's history and appends one event to it, atomically and once per transaction id.
-- KEYS: history, ids. ARGV: record, transaction id hash (8 bytes), event time in us, max_events, keep in us, bytes of a
-- record.
-- Reply: sequence, newest event time before this one, 1 if the id was appended before, records of the history.
local record, id, event_us, bound = ARGV[1], ARGV[2], tonumber(ARGV[3]), tonumber(ARGV[4])
local keep_us, size = tonumber(ARGV[5]), tonumber(ARGV[6])
local base, newest, count = 0, 0, 0

local function records(first, last) -- of indexes first..last-1
  if last <= first then return '' end
  return redis.call('GETRANGE', KEYS[1], 16 + size * first, 16 + size * last - 1)
end

local header = redis.call('GETRANGE', KEYS[1], 0, 15)
if #header == 16 then
  base, newest = struct.unpack('<i8i8', header)
  count = (redis.call('STRLEN', KEYS[1]) - 16) / size
end

local ids = redis.call('GET', KEYS[2]) or ''
local from = 1
while true do
  local at = string.find(ids, id, from, true)
  if not at then break end
  if (at - 1) % 16 == 0 then
    local index = (at - 1) / 16
    local newest_before = struct.unpack('<i8', ids, at + 8)
    return {base + index, newest_before, 1, records(math.max(0, index - bound), index)}
  end
  from = at + 1
end

local history = records(math.max(0, count - bound), count)
if event_us < newest - keep_us then
  return {base + count, newest, 0, history} -- too late to be in any window: not appended
end
if count >= 3 * bound then
  -- Only a prefix is removed, so that sequences stay contiguous. Enough records are kept for a retry of any of the
  -- entity's last max_events transactions to read the same history as its first attempt.
  local drop = count - 2 * bound
  redis.call('SET', KEYS[1], struct.pack('<i8i8', base + drop, newest) .. records(drop, count))
  redis.call('SET', KEYS[2], string.sub(ids, 16 * drop + 1))
  base, count = base + drop, 2 * bound
end
redis.call('SETRANGE', KEYS[1], 0, struct.pack('<i8i8', base, math.max(newest, event_us)))
redis.call('APPEND', KEYS[1], record)
redis.call('APPEND', KEYS[2], id .. struct.pack('<i8', newest))
return {base + count, newest, 0, history}
