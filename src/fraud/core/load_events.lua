-- Appends many events of one entity, in the order given, and removes events that can be in no later window.
-- KEYS: history, ids. ARGV: records, transaction id hashes (8 bytes each), max_events, keep in us, bytes of a record.
-- Reply: appended, repeated, too late, left out because the history is full.
local new_records, new_ids, bound = ARGV[1], ARGV[2], tonumber(ARGV[3])
local keep_us, size = tonumber(ARGV[4]), tonumber(ARGV[5])
local value, ids = redis.call('GET', KEYS[1]) or '', redis.call('GET', KEYS[2]) or ''
local base, newest = 0, 0
if #value >= 16 then base, newest = struct.unpack('<i8i8', value) end
local count = #ids / 16

local appended_before = {}
for index = 0, count - 1 do appended_before[string.sub(ids, 16 * index + 1, 16 * index + 8)] = true end

-- Ids may have been removed from a full history, all of them of events no newer than its newest one. Appending such an
-- event again would count it twice, so only newer events are appended to a full history.
local full_until = count >= 2 * bound and newest or -1
local appended, repeated, late, full, removed = 0, 0, 0, 0, 0
local records, entries = {string.sub(value, 17)}, {ids}
for k = 0, #new_ids / 8 - 1 do
  local id = string.sub(new_ids, 8 * k + 1, 8 * k + 8)
  local event_us = struct.unpack('<i8', new_records, size * k + 1)
  if appended_before[id] then
    repeated = repeated + 1
  elseif event_us < newest - keep_us then
    late = late + 1
  elseif event_us <= full_until then
    full = full + 1
  else
    if count >= 3 * bound then
      removed, count = removed + count - 2 * bound, 2 * bound
    end
    appended_before[id] = true
    appended = appended + 1
    records[appended + 1] = string.sub(new_records, size * k + 1, size * k + size)
    entries[appended + 1] = id .. struct.pack('<i8', newest)
    newest = math.max(newest, event_us)
    count = count + 1
  end
end

local all_records, all_entries = table.concat(records), table.concat(entries)
-- A prefix of events older than the retention is in no later window.
local first, total = removed, #all_entries / 16
while first < total and struct.unpack('<i8', all_records, size * first + 1) < newest - keep_us do
  first = first + 1
end
if appended > 0 or first > 0 then
  redis.call('SET', KEYS[1], struct.pack('<i8i8', base + first, newest) .. string.sub(all_records, size * first + 1))
  redis.call('SET', KEYS[2], string.sub(all_entries, 16 * first + 1))
end
return {appended, repeated, late, full}
