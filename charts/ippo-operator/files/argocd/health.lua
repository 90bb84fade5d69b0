-- Health of an IterativePPORun for Argo CD (Lua 5.1, no libraries needed beyond Argo CD's defaults).
-- Healthy: done and, where it serves, rolled out. Degraded: nothing goes on until someone mends it. Suspended: waits for
-- a human. Progressing: everything else, also a run or a change that the operator has not looked at yet.

local function condition(status, kind)
  for _, found in ipairs(status.conditions or {}) do
    if found.type == kind then
      return found
    end
  end
  return {}
end

local function answer(health, message)
  return { status = health, message = message }
end

local function told(found)
  local text = found.message or ""
  if text ~= "" then
    return text
  end
  return found.reason or "the operator has not said yet where the run stands"
end

-- What a condition of a run that is not over says, after how far it is. Ready may have more to say: servers in trouble.
local function so_far(status, found)
  local text = told(found)
  local ready = condition(status, "Ready").message or ""
  if ready ~= "" and ready ~= text then
    text = text .. "; " .. ready
  end
  if (status.progress or "") == "" then
    return text
  end
  return status.progress .. " iterations done: " .. text
end

local status = obj.status or {}

if obj.metadata.deletionTimestamp ~= nil then
  return answer("Progressing", "the run is being deleted")
end

if (status.observedGeneration or -1) < 0 then
  return answer("Progressing", "waits for the operator's first look")
end

if status.observedGeneration ~= obj.metadata.generation then
  return answer("Progressing", "waits for the operator to see the latest change of the spec")
end

local stalled = condition(status, "Stalled")
if stalled.status == "True" then
  return answer("Degraded", told(stalled))
end

local suspended = condition(status, "Suspended")
if suspended.status == "True" then
  return answer("Suspended", so_far(status, suspended))
end

local reconciling = condition(status, "Reconciling")
if reconciling.status == "True" then
  if reconciling.reason == "AwaitingApproval" then
    return answer("Suspended", so_far(status, reconciling))
  end
  return answer("Progressing", so_far(status, reconciling))
end

local ready = condition(status, "Ready")
if ready.status == "True" then
  return answer("Healthy", told(ready))
end

return answer("Progressing", so_far(status, ready))
