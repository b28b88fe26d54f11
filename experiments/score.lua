-- wrk script: 64 different requests with N candidates, ITEMS in the catalogue, a history of LENGTH; see SPEED.md.
local n, items, history = 100, 2000, 64
function init(args)
  n = tonumber(args[1]) or 100; items = tonumber(args[2]) or 2000; history = tonumber(args[3]) or 64
  math.randomseed(1)
  bodies = {}
  for k = 1, 64 do
    local h, c = {}, {}
    for i = 1, history do h[i] = math.random(1, items) end
    for i = 1, n do c[i] = math.random(1, items) end
    bodies[k] = wrk.format("POST", "/score", {["Content-Type"] = "application/json"},
      string.format('{"history":[%s],"candidates":[%s],"context":{"likes_level":%d,"views_level":%d}}',
        table.concat(h, ","), table.concat(c, ","), k % 11, (k * 3) % 11))
  end
  k = 0; bad = 0
end
function request() k = k % 64 + 1; return bodies[k] end
