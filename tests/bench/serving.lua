-- One payment per request: 5,000 users, about 60 payments a user and month, ids never repeated within a run.
-- arguments: run name, API key, first moment (s since 1970), "wide" for every column of the shipped declaration, traceparent
local name, key, start, wide, n = "", "", 0, false, 0
local categories = {"grocery", "travel", "electronics", "shopping_net", "home"}

function init(args)
  name, key, start, wide = args[1], args[2], tonumber(args[3]), args[4] == "wide"
  wrk.headers["content-type"] = "application/json"
  if key ~= "" then wrk.headers["x-api-key"] = key end
  if args[5] then wrk.headers["traceparent"] = args[5] end
end

function request()
  n = n + 1
  local at, more = start + n * 8.64, ""
  if wide then
    more = string.format(',"device_id":"d%05d","country":"country-%02d","card_present":%s',
      (n * 7919) % 4000, (n * 31) % 60, tostring(n % 3 == 0))
  end
  return wrk.format("POST", "/predict", nil, string.format(
    '{"transaction_id":"%s-%d","user_id":"u%05d","merchant_id":"m%04d","event_timestamp":"%s.%06dZ","amount":%.2f,'
    .. '"merchant_category":"%s","distance_from_home":%.1f%s}',
    name, n, (n * 7919) % 5000, (n * 104729) % 2000, os.date("!%Y-%m-%dT%H:%M:%S", math.floor(at)), n % 1000000,
    5 + (n * 37) % 400, categories[n % 5 + 1], n % 50, more))
end

function done(summary, latency)
  local e = summary.errors
  io.write(string.format('{"requests":%d,"seconds":%f,"p50_ms":%f,"p99_ms":%f,'
    .. '"bad":{"status":%d,"connect":%d,"read":%d,"write":%d,"timeout":%d}}\n', summary.requests,
    summary.duration / 1e6, latency:percentile(50) / 1e3, latency:percentile(99) / 1e3,
    e.status, e.connect, e.read, e.write, e.timeout))
end
