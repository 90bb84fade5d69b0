-- Which actions apply to the run as it is.

local function ended(status)
  for _, condition in ipairs(status.conditions or {}) do
    if condition.type == "Succeeded" then
      return condition.status ~= "Unknown"
    end
  end
  return false
end

-- The iteration whose candidate passed the gate and waits for a human who has not answered yet.
local function unanswered(status, promotion)
  local iterations = status.iterations or {}
  local last = iterations[#iterations]
  if last == nil or last.decision == nil or last.promoted ~= nil then
    return false
  end
  return promotion.approve ~= last.iteration and promotion.reject ~= last.iteration
end

local status = obj.status or {}
local suspended = obj.spec.suspend == true
local leaving = obj.metadata.deletionTimestamp ~= nil
local asked = not leaving and unanswered(status, obj.spec.promotion or {})

return {
  suspend = { disabled = leaving or suspended or ended(status), iconClass = "fa fa-fw fa-pause" },
  resume = { disabled = leaving or not suspended, iconClass = "fa fa-fw fa-play" },
  approve = { disabled = not asked, iconClass = "fa fa-fw fa-check" },
  reject = { disabled = not asked, iconClass = "fa fa-fw fa-times" },
}
